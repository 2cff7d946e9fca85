"""GET routes: the models, and how the server does. Knows no request bodies."""

from msgspec import UNSET

from pieria.server.errors import RETRY_SECONDS
from pieria.server.exchange import Exchange
from pieria.server.job import check_model
from pieria.server.metrics import CONTENT_TYPE
from pieria.server.responses import Load, ModelCard, ModelList, Status, Version
from pieria.server.state import ServerState


async def models(exchange: Exchange) -> None:
    """Every name the model is served under."""
    state = exchange.state
    await exchange.reply(ModelList([_card(name, state) for name in state.names]))


async def model(exchange: Exchange) -> None:
    """One name that the model is served under."""
    name = exchange.path["id"]
    check_model(name, exchange.state)
    await exchange.reply(_card(name, exchange.state))


async def health(exchange: Exchange) -> None:
    """200 while the engine starts, idles or makes progress; else 503.

    A stuck engine is replaced after a while; a dead one ends the server.
    """
    state, seconds = exchange.state, exchange.config.health_timeout_seconds
    if state.client.failure is not None:
        await exchange.reply(Status("dead", "the engine has failed"), 503)
    elif state.served is None:
        await exchange.reply(Status("starting"))
    elif not state.client.ready:
        await exchange.reply(Status("restarting"))
    elif not state.client.progressing(seconds):
        reason = f"the engine has made no progress for more than {seconds:g} s"
        await exchange.reply(Status("stuck", reason), 503)
    else:
        await exchange.reply(Status("ok"))


async def ready(exchange: Exchange) -> None:
    """200 while new requests are taken; else 503: send them elsewhere."""
    state = exchange.state
    if state.client.failure is not None:
        reason = "dead"
    elif state.draining:
        reason = "draining"
    elif state.served is None:
        reason = "starting"
    elif not state.client.ready:
        reason = "restarting"
    else:
        await exchange.reply(Status("ready"))
        return
    await exchange.reply(Status(reason), 503, retry_after=RETRY_SECONDS)


async def metrics(exchange: Exchange) -> None:
    """All measurements in Prometheus' text format."""
    await exchange.reply_bytes(exchange.state.metrics.text(), CONTENT_TYPE)


async def version(exchange: Exchange) -> None:
    """The version of this program."""
    await exchange.reply(Version(exchange.state.version))


async def load(exchange: Exchange) -> None:
    """How much work there is, for who shares it out between servers."""
    state, stats = exchange.state, exchange.state.client.stats
    used = stats.pages_held / stats.pages if stats.pages else 0.0
    await exchange.reply(Load(len(state.in_flight) - 1, stats.running, stats.waiting, used))


def _card(name: str, state: ServerState) -> ModelCard:
    length = UNSET if state.served is None else state.served.engine.max_model_len
    virtual = state.virtual or UNSET
    return ModelCard(id=name, created=state.created, max_model_len=length, virtual_device=virtual)
