"""The table of everything the server does, and the application made of it and nothing else."""

from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from pieria.clock import Clock
from pieria.server import admin, status
from pieria.server.access import Gate
from pieria.server.chat import chat_completions
from pieria.server.completions import completions
from pieria.server.config import ServerConfig
from pieria.server.edge import Edge, Endpoint
from pieria.server.errors import ApiError, shown
from pieria.server.exchange import Route
from pieria.server.metrics import CONTENT_TYPE
from pieria.server.openapi import openapi
from pieria.server.responses import (
    ChatChunk,
    ChatCompletion,
    Completion,
    Description,
    Flushed,
    Load,
    ModelCard,
    ModelList,
    Profile,
    Status,
    Text,
    Tokens,
    Usages,
    Version,
)
from pieria.server.schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from pieria.server.state import ServerState
from pieria.server.tokens import detokenize, tokenize

ROUTES = (
    Route(
        "POST",
        "/v1/chat/completions",
        chat_completions,
        "inference",
        takes=ChatRequest,
        gives=ChatCompletion,
        streams=ChatChunk,
    ),
    Route(
        "POST",
        "/v1/completions",
        completions,
        "inference",
        takes=CompletionRequest,
        gives=Completion,
        streams=Completion,
    ),
    Route("GET", "/v1/models", status.models, "inference", gives=ModelList),
    Route("GET", "/v1/models/{id:path}", status.model, "inference", gives=ModelCard),
    Route("POST", "/tokenize", tokenize, "inference", takes=TokenizeRequest, gives=Tokens),
    Route("POST", "/detokenize", detokenize, "inference", takes=DetokenizeRequest, gives=Text),
    Route("GET", "/health", status.health, "public", gives=Status),
    Route("GET", "/ready", status.ready, "public", gives=Status),
    Route("GET", "/load", status.load, "metrics", gives=Load),
    Route("GET", "/metrics", status.metrics, "metrics", content_type=CONTENT_TYPE),
    Route("GET", "/version", status.version, "inference", gives=Version),
    Route("GET", "/openapi.json", openapi, "inference", gives=Description),
    Route("GET", "/usage", admin.usage, "admin", gives=Usages),
    Route("POST", "/flush_cache", admin.flush_cache, "admin", gives=Flushed),
    Route("POST", "/start_profile", admin.start_profile, "admin", gives=Profile),
    Route("POST", "/stop_profile", admin.stop_profile, "admin", gives=Profile),
)


def create_app(
    state: ServerState, config: ServerConfig, clock: Clock, gate: Gate, for_admins: bool = False
) -> Starlette:
    """The ASGI application of all routes for admins, or of all others."""
    routes = tuple(route for route in ROUTES if (route.access == "admin") == for_admins)

    def unmatched(request: Request, error: Exception) -> Response:
        """No route, or not with this method; which of them, only who has a key is told."""
        assert isinstance(error, HTTPException)
        gate.require_any_key(request.scope["headers"])
        place = shown(request.scope["path"])
        if error.status_code == 405:
            raise ApiError(
                405,
                f"{request.method} is not allowed on {place}",
                code="method_not_allowed",
                headers={"allow": (error.headers or {})["Allow"]},
            )
        raise ApiError(404, f"there is no {request.method} {place}", code="unknown_url")

    middleware = [Middleware(Edge, gate, state, clock)]
    if config.allowed_origins:
        middleware.insert(0, Middleware(CORSMiddleware, **_cors(config)))
    app = Starlette(
        routes=[
            StarletteRoute(
                route.path,
                Endpoint(route, gate, state, config, clock, routes),
                methods=[route.method],
            )
            for route in routes
        ],
        middleware=middleware,
        exception_handlers={HTTPException: unmatched},
    )
    app.router.redirect_slashes = False
    return app


def _cors(config: ServerConfig) -> dict[str, Any]:
    """What pages of the allowed origins may do; never with a browser's own credentials."""
    return {
        "allow_origins": config.allowed_origins,
        "allow_methods": ("GET", "POST"),
        "allow_headers": ("authorization", "content-type"),
        "expose_headers": ("x-request-id", "retry-after"),
    }
