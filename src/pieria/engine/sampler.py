"""From logits to tokens: the draws of a step as the tensors that `ops.sample` takes.

Knows draws and logits. Does not know requests.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pieria import ops
from pieria.engine.plan import Draw, Logprob


def draw(logits_RV: Tensor, draws: Sequence[Draw]) -> Tensor:
    """The token of each row, int64 [R]."""
    device = logits_RV.device

    def column(value: Callable[[Draw], float], neutral: float) -> Tensor | None:
        """A float32 per row; None where every row has the neutral value."""
        values = [value(d) for d in draws]
        if all(v == neutral for v in values):
            return None
        return torch.tensor(values, dtype=torch.float32, device=device)

    top_k = column(lambda d: d.top_k, 0)
    keys = [ops.key(d.seed, d.choice, d.position) for d in draws]
    return ops.sample(
        logits_RV,
        ops.Draws(
            keys_R=torch.tensor(keys, dtype=torch.int64, device=device),
            temperature_R=column(lambda d: d.temperature, 0.0),
            top_k_R=None if top_k is None else top_k.long(),
            top_p_R=column(lambda d: d.top_p, 1.0),
            min_p_R=column(lambda d: d.min_p, 0.0),
            repetition_R=column(lambda d: d.repetition_penalty, 1.0),
            presence_R=column(lambda d: d.presence_penalty, 0.0),
            frequency_R=column(lambda d: d.frequency_penalty, 0.0),
            history=_history(draws, device),
            bias=_bias(draws, logits_RV.shape[-1], device),
        ),
    )


def logprobs(
    logits_RV: Tensor, tokens: Sequence[int], wanted: Sequence[int | None]
) -> list[Logprob | None]:
    """Each row's report on its token with `wanted` alternatives; None where None are wanted."""
    rows = [i for i, count in enumerate(wanted) if count is not None]
    found: list[Logprob | None] = [None] * len(wanted)
    if not rows:
        return found
    most = min(max(wanted[i] or 0 for i in rows), logits_RV.shape[-1])
    chosen_R = torch.tensor([tokens[i] for i in rows], device=logits_RV.device)
    logprob_R, rank_R, top_RN, top_tokens_RN = ops.token_logprobs(logits_RV[rows], chosen_R, most)
    columns = (logprob_R.tolist(), rank_R.tolist(), top_RN.tolist(), top_tokens_RN.tolist())
    for i, logprob, rank, top, top_tokens in zip(rows, *columns, strict=True):
        alternatives = tuple(zip(top_tokens, top, strict=True))[: wanted[i]]
        found[i] = Logprob(tokens[i], logprob, rank, alternatives)
    return found


def _history(draws: Sequence[Draw], device: torch.device) -> tuple[Tensor, Tensor, Tensor] | None:
    """(row, token, times in the output) of every token that a penalty looks at."""
    if not any(d.seen for d in draws):
        return None

    def joined(parts: list[bytes]) -> Tensor:
        return torch.frombuffer(bytearray().join(parts), dtype=torch.int32).to(device)

    tokens_N = joined([d.seen for d in draws])
    lengths_R = torch.tensor([len(d.seen) // tokens_N.element_size() for d in draws], device=device)
    rows_N = torch.arange(len(draws), device=device).repeat_interleave(lengths_R)
    return rows_N, tokens_N.long(), joined([d.times for d in draws]).float()


def _bias(
    draws: Sequence[Draw], vocabulary: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor] | None:
    """(row, token, what is added to its logit); minus infinity bans.

    A token beyond the vocabulary, which a stop token may be, is never drawn anyway.
    """
    rows: list[int] = []
    tokens: list[int] = []
    values: list[float] = []
    for row, draw in enumerate(draws):
        biased = {**dict(draw.bias), **dict.fromkeys(draw.banned, -math.inf)}
        added = {token: value for token, value in biased.items() if token < vocabulary}
        rows += [row] * len(added)
        tokens += added
        values += added.values()
    return _triplets(rows, tokens, values, device)


def _triplets(
    rows: list[int], tokens: list[int], values: Sequence[float], device: torch.device
) -> tuple[Tensor, Tensor, Tensor] | None:
    if not rows:
        return None
    return (
        torch.tensor(rows, device=device),
        torch.tensor(tokens, device=device),
        torch.tensor(values, dtype=torch.float32, device=device),
    )
