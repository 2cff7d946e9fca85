"""Texts to vectors and choices: whole sequences through a model in packed batches, without pages.

Knows a loaded model and token ids. Does not know text, nor how requests are scheduled.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pieria import ops
from pieria.config import Decision
from pieria.engine import resolve
from pieria.engine.place import load_weights, stored_dtype, use_threads
from pieria.engine.runner_config import RunnerConfig
from pieria.hardware import devices
from pieria.models.checkpoint import open_checkpoint
from pieria.models.context import Packed
from pieria.models.decoder import Decoder
from pieria.models.embedding_config import EmbeddingConfig, embedding_config
from pieria.models.loader import build, held_bytes
from pieria.models.quantization import NONE
from pieria.parallel.mesh import Mesh

Ids = Sequence[int]


class Embedder:
    """A model that reads. Its results are in the order of the texts.

    config: how hidden states are pooled; None if nobody says. most: tokens of the longest text.
    batch_tokens: in a forward pass, unless one text has more.
    """

    def __init__(
        self,
        model: Decoder,
        config: EmbeddingConfig | None,
        most: int,
        batch_tokens: int,
        device: str,
    ) -> None:
        self.model = model
        self.config = config
        self.most = most
        self.batch_tokens = batch_tokens
        self.device = device

    @torch.inference_mode()
    def embed(self, texts: Sequence[Ids]) -> list[list[float]]:
        """A vector for each text.

        ValueError for a text that is empty, too long, or has a token that the model does not know.
        """
        if self.config is None:
            raise ValueError(
                "how this model's hidden states are pooled is not known: there is no modules.json"
            )
        vectors: list[list[float]] = []
        for hidden_TD, lengths in self._batches(texts):
            pooled_RD = ops.widen(ops.pool(hidden_TD, lengths, self.config.pooling))
            vectors += (F.normalize(pooled_RD) if self.config.normalize else pooled_RD).tolist()
        return vectors

    @torch.inference_mode()
    def choose(self, texts: Sequence[Ids], options: Ids) -> list[list[float]]:
        """How likely each of these tokens is to be the next one of a text, if one of them is.

        ValueError for a text as in `embed`, or a model without logits.
        """
        if not self.model.config.generates:
            raise ValueError(f"{self.model.config.family} models have no next token")
        shares: list[list[float]] = []
        for hidden_TD, lengths in self._batches(texts):
            logits_RV = self.model.logits(ops.pool(hidden_TD, lengths, "last"))
            shares += ops.widen(logits_RV[:, list(options)]).softmax(-1).tolist()
        return shares

    def close(self) -> None:
        """Free the weights. No call but this one follows."""
        self.model.to("meta")

    def _batches(self, texts: Sequence[Ids]) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
        """Hidden states and lengths of some texts after the others."""
        for i, text in enumerate(texts):
            if not 0 < len(text) <= self.most:
                raise ValueError(f"text {i} has {len(text)} tokens; 1 to {self.most} are allowed")
            if max(text) >= self.model.config.vocabulary:
                raise ValueError(
                    f"text {i} has token id {max(text)}; ids are integers below"
                    f" {self.model.config.vocabulary}"
                )
        first = 0
        while first < len(texts):
            last, tokens = first + 1, len(texts[first])
            while last < len(texts) and tokens + len(texts[last]) <= self.batch_tokens:
                tokens += len(texts[last])
                last += 1
            batch = texts[first:last]
            lengths = tuple(len(text) for text in batch)
            tokens_T = torch.tensor([id for text in batch for id in text], device=self.device)
            yield self.model(tokens_T, Packed.of(lengths, self.device)), lengths
            first = last


def open_embedder(config: RunnerConfig, batch_tokens: int) -> tuple[Embedder, tuple[Decision, ...]]:
    """The model that `config` names, loaded into this process, and what was decided.

    ValueError for a bad option or an unsupported model.
    """
    if config.tensor_parallel_size > 1:
        raise ValueError(
            f"tensor_parallel_size={config.tensor_parallel_size}: models that embed or score run in"
            " one process"
        )
    device = devices.find(config.device)
    ops.use(*device.backends)
    threads = use_threads(config.threads, "auto", device.torch_device, 1)
    checkpoint = open_checkpoint(Path(config.model))
    dtype = resolve.dtype(config.dtype, stored_dtype(checkpoint), device.spec.native_dtypes)
    model = build(checkpoint, Mesh(), getattr(torch, dtype.value))
    pooling = embedding_config(checkpoint)
    bounds = (config.max_model_len, model.config.context, pooling.max_tokens if pooling else None)
    total = held_bytes(checkpoint, model, NONE)
    load_weights(checkpoint, model, device.torch_device, NONE, total)
    most = min(filter(None, bounds))
    embedder = Embedder(model, pooling, most, batch_tokens, device.torch_device)
    return embedder, (dtype, *threads)
