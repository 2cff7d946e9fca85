"""The table of everything the server does, and the application made of it and nothing else."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from pieria.clock import Clock
from pieria.server import status
from pieria.server.chat import chat_completions
from pieria.server.completions import completions
from pieria.server.config import ServerConfig
from pieria.server.edge import Edge, Endpoint, Route, require_key
from pieria.server.errors import ApiError, shown
from pieria.server.keys import read_keys
from pieria.server.state import ServerState
from pieria.server.tokens import detokenize, tokenize

ROUTES = (
    Route("POST", "/v1/chat/completions", chat_completions, "key"),
    Route("POST", "/v1/completions", completions, "key"),
    Route("GET", "/v1/models", status.models, "key"),
    Route("GET", "/v1/models/{id:path}", status.model, "key"),
    Route("POST", "/tokenize", tokenize, "key"),
    Route("POST", "/detokenize", detokenize, "key"),
    Route("GET", "/health", status.health, "public"),
    Route("GET", "/ready", status.ready, "public"),
    Route("GET", "/metrics", status.metrics, "key"),
    Route("GET", "/version", status.version, "key"),
)


def create_app(state: ServerState, config: ServerConfig, clock: Clock) -> Starlette:
    """The ASGI application. ValueError if the API keys cannot be read."""
    keys = read_keys(config)

    def unmatched(request: Request, error: Exception) -> Response:
        """No route, or not with this method; which of them, only who has a key is told."""
        assert isinstance(error, HTTPException)
        require_key(keys, request.scope)
        place = shown(request.scope["path"])
        if error.status_code == 405:
            raise ApiError(
                405,
                f"{request.method} is not allowed on {place}",
                code="method_not_allowed",
                headers={"allow": (error.headers or {})["Allow"]},
            )
        raise ApiError(404, f"there is no {request.method} {place}", code="unknown_url")

    app = Starlette(
        routes=[
            StarletteRoute(
                route.path, Endpoint(route, keys, state, config, clock), methods=[route.method]
            )
            for route in ROUTES
        ],
        middleware=[Middleware(Edge, state)],
        exception_handlers={HTTPException: unmatched},
    )
    app.router.redirect_slashes = False
    return app
