"""JIUTIAN-139MoE against an implementation of its own, and how it is told from its namesake."""

from pathlib import Path

import pytest
import torch

from pieria.models.keys import Keys
from pieria.models.registry import family, model_config
from pieria.parallel.mesh import Mesh
from tests.models import jiutian_139moe as oracle
from tests.models.test_families import TOLERANCE, error, ours, read

TOKENS = torch.randint(0, 203, (24,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_logits_are_those_of_the_oracle(dtype: torch.dtype, tmp_path: Path) -> None:
    made = oracle.weights()
    found = ours(read(oracle.save(made, tmp_path), dtype), TOKENS)
    assert error(found, oracle.logits(made, TOKENS.tolist())) <= TOLERANCE[dtype]


def test_tokens_go_both_ways(tmp_path: Path) -> None:
    """Else the test above would prove half of it."""
    made = oracle.weights()
    ways = [
        oracle.experts(made, "model.layers.0.", made["model.embed_tokens.weight"][t])[1]
        for t in TOKENS.tolist()
    ]
    assert 4 <= sum(ways) <= len(ways) - 4


def test_ranks_read_their_experts(tmp_path: Path) -> None:
    """The halves of the full expert too, wherever they are cut."""
    folder = oracle.save(oracle.weights(), tmp_path)
    whole = dict(read(folder, torch.float64).named_parameters())
    gate, down = (f"layers.1.mlp.experts.{name}.weight" for name in ("gate", "down"))
    made = oracle.weights()
    w1 = made["model.layers.1.block_sparse_moe.experts.0.w1.weight"]
    w2 = made["model.layers.1.block_sparse_moe.experts.0.w2.weight"]
    assert torch.equal(whole[gate][:2].flatten(0, 1), w1)
    assert torch.equal(torch.cat([*whole[down][:2]], 1), w2)
    for ep in range(2):
        for tp in range(2):
            part = read(folder, torch.float64, Mesh(tp=2, ep=2, rank=2 * ep + tp))
            held = dict(part.named_parameters())
            span, cut = slice(4 * ep, 4 * ep + 4), slice(16 * tp, 16 * tp + 16)
            assert torch.equal(held[gate], whole[gate][span, cut])
            assert torch.equal(held[down], whole[down][span, :, cut])


def test_the_name_it_shares_is_told_apart() -> None:
    shared = {**oracle.CONFIG, "num_local_experts": None, "num_experts_per_tok": None}
    assert model_config(Keys(oracle.CONFIG, "c")).family == "jiutian_moe"
    assert model_config(Keys({**shared, "qkv_bias": True}, "c")).family == "jiutian"
    with pytest.raises(ValueError, match="none of the keys that tell which it is"):
        family(Keys(shared, "c"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_cope": True}, "use_cope=True"),
        ({"sliding_window": 128}, "sliding_window=128"),
        ({"num_local_experts": 16}, "num_local_experts=16 must be 8"),
        ({"num_experts_per_tok": 1}, "num_experts_per_tok=1 must be 2"),
        ({"intermediate_size": 63}, "intermediate_size=63 must be even"),
    ],
)
def test_what_is_not_supported_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_config(Keys({**oracle.CONFIG, **changes}, "c"))
