"""Routes for admins alone, on their own listener. Knows no models and no prompts."""

from pieria.server.edge import Exchange
from pieria.server.responses import KeyUsage, Usages


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
