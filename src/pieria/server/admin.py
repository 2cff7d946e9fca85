"""Routes for admins alone, on their own listener. Knows no models and no prompts."""

from pathlib import Path

from pieria.engine.text import EngineDead
from pieria.server.errors import invalid, unavailable
from pieria.server.exchange import Exchange
from pieria.server.responses import Flushed, KeyUsage, Profile, Usages


async def flush_cache(exchange: Exchange) -> None:
    """Forget all prefixes that no request holds."""
    await exchange.reply(Flushed(int(await _command(exchange, "flush_cache"))))


async def start_profile(exchange: Exchange) -> None:
    """Begin to note where the time of steps goes."""
    path = _profile(exchange)
    await _command(exchange, "start_profile")
    await exchange.reply(Profile(str(path.parent)))


async def stop_profile(exchange: Exchange) -> None:
    """Write the trace, for Chrome or Perfetto, into --profile-dir."""
    path = _profile(exchange)
    await exchange.reply(Profile(await _command(exchange, "stop_profile", str(path))))


async def _command(exchange: Exchange, name: str, path: str = "") -> str:
    if exchange.body.strip() not in (b"", b"{}"):
        raise invalid(None, "this takes no fields: the body must be empty or {}")
    try:
        return await exchange.state.client.command(name, path)
    except ValueError as error:
        raise invalid(None, str(error)) from error
    except EngineDead as error:
        raise unavailable(str(error)) from error


def _profile(exchange: Exchange) -> Path:
    """Where a trace goes that is written now. The server says where, never a request."""
    folder = exchange.config.profile_dir
    if folder is None:
        raise invalid(None, "the server was started without --profile-dir")
    return folder.resolve() / f"pieria-{exchange.clock.wall():.0f}.json"


async def usage(exchange: Exchange) -> None:
    """What each key has used since the server started."""
    keys = [
        KeyUsage(
            one.name,
            one.requests,
            one.refused,
            one.running,
            one.prompt_tokens,
            one.cached_tokens,
            one.generated_tokens,
        )
        for one in exchange.gate.accounts.all()
    ]
    await exchange.reply(Usages(keys))
