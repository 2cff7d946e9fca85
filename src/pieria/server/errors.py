"""Errors in OpenAI's shape, and which of ours becomes which. Knows status codes; sends nothing."""

import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import fields

import msgspec

from pieria.engine.sampling_params import SamplingParams

MESSAGE_ENDS = 400
"""Characters kept of either end of a longer message; what is allowed stands at the end."""

RETRY_SECONDS = 5

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ErrorDetails(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct):
    error: ErrorDetails


class ApiError(Exception):
    """What a client is told instead of an answer; `message` must be fit for its eyes.

    param: the request's field that is wrong. code: OpenAI's, where it has one. headers: of the
    response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers or {}

    @property
    def body(self) -> bytes:
        """The JSON object that goes out."""
        message = self.message
        if len(message) > 2 * MESSAGE_ENDS:
            message = f"{message[:MESSAGE_ENDS]} ... {message[-MESSAGE_ENDS:]}"
        other = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = _TYPES.get(self.status, other)
        return msgspec.json.encode(ErrorBody(ErrorDetails(message, kind, self.param, self.code)))


def invalid(param: str | None, message: str) -> ApiError:
    """400: what the client sent cannot be served."""
    return ApiError(400, message, param=param)


def unavailable(message: str) -> ApiError:
    """503: try again later, here or elsewhere."""
    return ApiError(503, message, headers={"retry-after": str(RETRY_SECONDS)})


def too_many(retry_after_seconds: float) -> ApiError:
    """429: the queue is full."""
    wait = max(1, math.ceil(retry_after_seconds))
    message = f"the server has as many requests as it takes; try again in {wait} s"
    return ApiError(429, message, code="queue_full", headers={"retry-after": str(wait)})


def rate_limited(message: str, retry_after_seconds: float) -> ApiError:
    """429: this key has had what it may have."""
    wait = max(1, math.ceil(retry_after_seconds))
    message = f"{message}; try again in {wait} s"
    return ApiError(429, message, code="rate_limit_exceeded", headers={"retry-after": str(wait)})


def failed(request_id: str, cause: str) -> ApiError:
    """500: our fault. cause: fit for the client's eyes."""
    return ApiError(500, f"{cause}; the server's log has more under request {request_id}")


def late(reason: str) -> ApiError:
    """408: the request's own time is up, or its reader's."""
    return ApiError(408, f"the request was ended: {reason}", code="timeout")


_NAMES = frozenset(field.name for field in fields(SamplingParams))
_FIRST_WORD = re.compile(r"[a-z_]+")


def from_value_error(error: ValueError, renamed: Mapping[str, str]) -> ApiError:
    """400 for what `SamplingParams` or the engine refuse.

    Their messages begin with the field's name if it is one field's fault. renamed: what the request
    calls some of them.
    """
    message = str(error)
    match = _FIRST_WORD.match(message)
    if match is None or match[0] not in _NAMES:
        return invalid(None, message)
    name = renamed.get(match[0], match[0])
    return invalid(name, name + message[match.end() :])


def shown(value: object) -> str:
    """A client's value as a message shows it: never long, however large the value is."""
    return _repr.repr(value)


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 80
_repr.maxlevel = 2
