"""From logits to tokens: the draws of a step as the tensors that `ops.sample` takes.

Knows draws and logits. Does not know requests.
"""

import math
from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from pieria import ops
from pieria.engine.plan import Draw, Logprob

DTYPES = {"f": torch.float32, "i": torch.int32, "q": torch.int64}
"""By the type codes of arrays, from which tensors are made faster than from lists."""


def draw(logits_RV: Tensor, draws: Sequence[Draw], positions: Sequence[int]) -> Tensor:
    """The token of each row, int64 [R]; -1 where the largest of its logits is not finite.

    positions: of the tokens to draw, each in its own sequence.
    """
    device = logits_RV.device

    def column(values: list[float], neutral: float) -> Tensor | None:
        """A float32 per row; None where every row has the neutral value."""
        return None if values.count(neutral) == len(values) else _tensor("f", values, device)

    history = _history(draws, device)
    bias = _bias(draws, logits_RV.shape[-1], device)
    repetition_R = presence_R = frequency_R = None
    if history is not None:
        repetition_R = column([d.repetition_penalty for d in draws], 1.0)
        presence_R = column([d.presence_penalty for d in draws], 0.0)
        frequency_R = column([d.frequency_penalty for d in draws], 0.0)
    temperature_R = column([d.temperature for d in draws], 0.0)
    keys_R = top_k_R = top_p_R = min_p_R = None
    if temperature_R is not None:
        keys = [
            ops.key(d.seed, d.choice, position) if d.temperature else 0
            for d, position in zip(draws, positions, strict=True)
        ]
        top_k = [d.top_k for d in draws]
        keys_R = _tensor("q", keys, device)
        top_k_R = _tensor("q", top_k, device) if any(top_k) else None
        top_p_R = column([d.top_p for d in draws], 1.0)
        min_p_R = column([d.min_p for d in draws], 0.0)
    return ops.sample(
        logits_RV,
        ops.Draws(
            torch.zeros(len(draws), dtype=torch.int64, device=device) if keys_R is None else keys_R,
            temperature_R,
            top_k_R,
            top_p_R,
            min_p_R,
            repetition_R,
            presence_R,
            frequency_R,
            history,
            bias,
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
    logits_RV = logits_RV if len(rows) == len(wanted) else logits_RV[rows]
    logprob_R, rank_R, top_RN, top_tokens_RN = ops.token_logprobs(logits_RV, chosen_R, most)
    columns = (logprob_R.tolist(), rank_R.tolist(), top_RN.tolist(), top_tokens_RN.tolist())
    for i, logprob, rank, top, top_tokens in zip(rows, *columns, strict=True):
        alternatives = tuple(zip(top_tokens, top, strict=True))[: wanted[i]]
        found[i] = Logprob(tokens[i], logprob, rank, alternatives)
    return found


def _history(draws: Sequence[Draw], device: torch.device) -> tuple[Tensor, Tensor, Tensor] | None:
    """(row, token, times in the output) of every token that a penalty looks at."""
    seen = [d.seen for d in draws]
    if not any(seen):
        return None

    def joined(parts: list[bytes]) -> Tensor:
        return torch.frombuffer(bytearray().join(parts), dtype=torch.int32).to(device)

    tokens_N = joined(seen)
    lengths_R = _tensor("q", [len(part) // tokens_N.element_size() for part in seen], device)
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
        if draw.bias or draw.banned:
            added = {token: value for token, value in draw.bias if token < vocabulary}
            for token in draw.banned:
                if token < vocabulary:
                    added[token] = -math.inf
            rows += [row] * len(added)
            tokens += added
            values += added.values()
    if not rows:
        return None
    return _tensor("q", rows, device), _tensor("q", tokens, device), _tensor("f", values, device)


def _tensor(code: str, values: Sequence[float], device: torch.device) -> Tensor:
    """At least one value, in the dtype of the array's type code."""
    return torch.frombuffer(array(code, values), dtype=DTYPES[code]).to(device)
