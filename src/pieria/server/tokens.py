"""POST /tokenize and /detokenize, as vLLM has them. Knows the tokenizer only."""

from msgspec import UNSET

from pieria.server.chat import render
from pieria.server.errors import invalid
from pieria.server.exchange import Exchange
from pieria.server.job import check_model, check_token_ids, encode
from pieria.server.responses import Text, Tokens
from pieria.server.schema import DetokenizeRequest, TokenizeRequest, read
from pieria.server.state import Served, ServerState


async def tokenize(exchange: Exchange) -> None:
    """The token ids of a text or a conversation."""
    state = exchange.state
    await exchange.reply(await exchange.prepare(_tokens, exchange.body, state.ready(), state))


async def detokenize(exchange: Exchange) -> None:
    """The text of token ids, special tokens included."""
    state = exchange.state
    await exchange.reply(await exchange.prepare(_text, exchange.body, state.ready(), state))


def _tokens(body: bytes, served: Served, state: ServerState) -> Tokens:
    request = read(body, TokenizeRequest)
    check_model(request.model, state)
    if (request.prompt is None) == (request.messages is None):
        raise invalid("prompt", "exactly one of prompt and messages must be given")
    tokenizer = served.engine.tokenizer
    if request.prompt is not None:
        special = request.add_special_tokens is not False
        tokens = encode("prompt", request.prompt, special, served)
    else:
        tokens = list(render(request, served).tokens)
    return Tokens(
        count=len(tokens),
        max_model_len=served.engine.max_model_len,
        tokens=tokens,
        token_strs=[tokenizer.token_text(token) for token in tokens]
        if request.return_token_strs
        else UNSET,
    )


def _text(body: bytes, served: Served, state: ServerState) -> Text:
    request = read(body, DetokenizeRequest)
    check_model(request.model, state)
    tokenizer = served.engine.tokenizer
    check_token_ids("tokens", request.tokens, tokenizer)
    return Text(tokenizer.decode(request.tokens, skip_special_tokens=False))
