"""What a step computes: the real model on the meta device, as calls with their costs.

Builds the same `Decoder` that serves, under any mesh (no process group is needed: on the meta
device a collective is its shapes), and packs plans as the runner does. Knows no seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pieria import ops
from pieria.engine.batch import LayerCache, pack
from pieria.engine.layout import Layout, layout
from pieria.engine.plan import Chunk
from pieria.models.config import ModelConfig
from pieria.models.decoder import Decoder
from pieria.ops.sample import Draws
from pieria.parallel.mesh import Mesh

META = "meta"

FACTORIES = frozenset({"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"})
"""What only sets memory aside."""


@dataclass(frozen=True)
class Glue:
    """What a model does between ops, such as adding a residual: torch's name for it, and bytes."""

    name: str
    bytes: int


Step = tuple[list[ops.Call | Glue], list[ops.Call | Glue]]
"""The forward pass, and what makes tokens of hidden states."""


class Traced:
    """One rank's part of a model, through which steps can be traced."""

    def __init__(
        self,
        config: ModelConfig,
        mesh: Mesh,
        dtype: torch.dtype,
        page_tokens: int,
        kv_dtype: torch.dtype | None = None,
    ) -> None:
        """kv_dtype: what keys and values are held in; None: dtype. ValueError, naming the weight,
        if a cut over `mesh` does not divide.
        """
        self.model = Decoder(config, mesh, dtype)
        self.page_tokens = page_tokens
        whole = self.model
        if mesh.pp > 1:
            whole = Decoder(config, replace(mesh, pp=1, rank=0), dtype)
        self.layout: Layout = layout(whole.cache_specs(kv_dtype))
        self.stage = mesh.stage(len(config.layers))
        self.caches: list[LayerCache] = [
            tuple(
                torch.empty(1, *(page_tokens,) * paged, *a.shape, dtype=a.dtype, device=META)
                for paged, arrays in ((1, spec.token), (0, spec.state))
                for a in arrays
            )
            if i in self.stage
            else ()
            for i, spec in enumerate(self.layout.specs)
        ]

    @torch.inference_mode()
    def step(self, chunks: Sequence[Chunk]) -> Step:
        """Every call of one step, in order; of chunks whose next token is wanted also its draw."""
        tokens_T, context = pack(chunks, self.page_tokens, self.caches, self.layout.tables, META)
        drawn = sum(chunk.draw is not None for chunk in chunks)
        with _Recorder() as forward:
            hidden_TD = self.model(tokens_T, context)
        with _Recorder() as ending:
            if drawn:
                logits_RV = self.model.logits(hidden_TD[:drawn])
                if self.model.ends:
                    keys_R = torch.empty(drawn, dtype=torch.int64, device=META)
                    ops.sample(logits_RV, Draws(keys_R))
        return forward.steps, ending.steps


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects op calls, and what happens between them, in order."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[ops.Call | Glue] = []
        self._tracing = ops.trace()

    def __enter__(self) -> "_Recorder":
        self._calls = self._tracing.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._tracing.__exit__(*error)
        self._flush()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        schema = function._schema
        name = schema.name.partition("::")[2]
        if isinstance(out, Tensor) and name not in FACTORIES:
            given = [a for a in args if isinstance(a, Tensor)]
            is_alias = any(result.alias_info is not None for result in schema.returns)
            is_same = bool(given) and out.dtype == given[0].dtype
            if not (is_alias and is_same):
                parts = [a for a in args if isinstance(a, list | tuple)]
                listed = [t for part in parts for t in part if isinstance(t, Tensor)]
                self._flush()
                self.steps.append(Glue(name, ops.nbytes(*given, *listed, out)))
        return out

    def _flush(self) -> None:
        self.steps.extend(self._calls)
        self._calls.clear()
