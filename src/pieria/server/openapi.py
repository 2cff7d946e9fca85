"""The description of the API, made from the table of routes and the types that they take and give.

Knows OpenAPI's form. Does not know what routes do.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from pydantic import BaseModel

from pieria.engine.sampling_params import MAX_STOPS, RANGES
from pieria.server.config import ServerConfig
from pieria.server.errors import ErrorBody
from pieria.server.exchange import Exchange, Route
from pieria.server.schema import INERT, NEUTRAL, CompletionRequest, GenerationRequest
from pieria.server.state import ServerState

REFUSALS = (400, 403, 404, 405, 421, 431, 500, 503)
"""What any request may be answered with besides what it asks for."""

OF_KEYS, OF_BODIES = (401, 429), (408, 413, 415)
WORDS = "#/components/schemas/"


async def openapi(exchange: Exchange) -> None:
    """This description."""
    keyed = exchange.gate.has_keys
    await exchange.reply(document(exchange.routes, exchange.state, exchange.config, keyed))


def document(
    routes: Sequence[Route], state: ServerState, config: ServerConfig, keyed: bool
) -> dict[str, Any]:
    """The routes as OpenAPI 3.1, for the model that is served. keyed: whether keys are needed."""
    gives = [kind for route in routes for kind in (route.gives, route.streams) if kind is not None]
    _, schemas = msgspec.json.schema_components([ErrorBody, *gives], ref_template=WORDS + "{name}")
    for route in routes:
        if route.takes is not None:
            made = _body_schema(route.takes, config.max_logprobs)
            made["properties"]["model"] = _model(made["properties"]["model"], state.names)
            schemas |= made.pop("$defs", {})
            schemas[route.takes.__name__] = _at_components(made)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        place = paths.setdefault(route.path.replace(":path}", "}"), {})
        place[route.method.lower()] = _operation(route, keyed)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pieria", "version": state.version},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, keyed: bool) -> dict[str, Any]:
    statuses = {*REFUSALS, *(OF_BODIES if route.method == "POST" else ())}
    closed = route.access == "admin" or (keyed and route.access != "public")
    if closed:
        statuses |= set(OF_KEYS)
    content: dict[str, Any] = {route.content_type: {"schema": _ref(route.gives)}}
    if route.streams is not None:
        # Of one event: 3.1 has no word for the items of a stream, and tools read it so.
        content["text/event-stream"] = {
            "schema": {
                "type": "object",
                "properties": {
                    "data": {
                        "type": "string",
                        "description": f"a {route.streams.__name__} or an error; the last: [DONE]",
                    }
                },
                "required": ["data"],
            }
        }
    made: dict[str, Any] = {
        "summary": (route.handler.__doc__ or "").strip().partition("\n")[0],
        "operationId": route.handler.__name__,
        "security": [{"key": []}] if closed else [],
        "responses": {
            "200": {"description": "OK", "content": content},
            **{str(status): _refusal(route, status) for status in sorted(statuses)},
        },
    }
    if route.takes is not None:
        body = {"application/json": {"schema": _ref(route.takes)}}
        made["requestBody"] = {"required": True, "content": body}
    if "{" in route.path:
        name = route.path.partition("{")[2].partition(":")[0].rstrip("}")
        schema = {"type": "string", "minLength": 1}
        made["parameters"] = [{"name": name, "in": "path", "required": True, "schema": schema}]
    return made


def _refusal(route: Route, status: int) -> dict[str, Any]:
    schemas = [_ref(ErrorBody)]
    if status == 503 and route.access == "public":
        schemas.append(_ref(route.gives))
    content = {"application/json": {"schema": {"anyOf": schemas}}}
    return {"description": HTTPStatus(status).phrase, "content": content}


def _ref(kind: Any) -> dict[str, Any]:
    return {"type": "string"} if kind is None else {"$ref": WORDS + kind.__name__}


def _model(schema: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """One of the names that are served; or none where that may be."""
    optional = "anyOf" in schema
    return {"enum": [*names, None] if optional else list(names)}


def _at_components(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_at_components(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: value.replace("#/$defs/", WORDS) if name == "$ref" else _at_components(value)
        for name, value in schema.items()
    }


def _body_schema(model: type[BaseModel], most_logprobs: int) -> dict[str, Any]:
    """What a request's body may be, as JSON Schema; its parts are in `$defs`.

    most_logprobs: alternatives that the server gives at most.
    """
    made = model.model_json_schema()
    properties = made["properties"]
    for name, values in NEUTRAL.items() if issubclass(model, GenerationRequest) else ():
        properties[name] = {"enum": [None, *values]}
    for name in INERT if issubclass(model, GenerationRequest) else ():
        properties[name] = {}
    for name, described in properties.items():
        allowed = RANGES.get(_SAME_RANGE.get(name, name))
        kinds = [kind.get("type") for kind in described.get("anyOf", ())]
        if allowed is None or not {"integer", "number"} & set(kinds):
            continue
        low = "exclusiveMinimum" if allowed.low_open else "minimum"
        properties[name] = {
            "type": kinds,
            low: 0 if _may_be_none(name, model) else allowed.low,
            "maximum": most_logprobs if "logprobs" in name else allowed.high,
        }
    if "stop_token_ids" in properties:
        properties["stop_token_ids"]["anyOf"][0]["maxItems"] = MAX_STOPS
    plain: dict[str, Any] = _without_titles(made)
    return plain


_SAME_RANGE = {
    "best_of": "n",
    "max_completion_tokens": "max_tokens",
    "top_logprobs": "logprobs",
}


def _may_be_none(name: str, model: type[BaseModel]) -> bool:
    """With echo, a completion may ask for no token of its own."""
    return name == "max_tokens" and model is CompletionRequest


def _without_titles(schema: Any) -> Any:
    """Names of fields in capitals, which pydantic adds, say nothing."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _without_titles(value)
        for name, value in schema.items()
        if not (name == "title" and isinstance(value, str))
    }
