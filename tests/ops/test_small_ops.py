"""Ops of one formula against torch's own functions, and the edges of their meaning."""

import pytest
import torch
import torch.nn.functional as F
from transformers.activations import ACT2FN

from pieria import ops


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_rms_norm_is_torchs() -> None:
    x, weight = random(5, 16), random(16)
    want = F.rms_norm(x, (16,), weight, 0.1)
    torch.testing.assert_close(ops.rms_norm(x, weight, 0.1), want)


def test_rms_norm_with_eps_outside_adds_it_to_the_root() -> None:
    x = torch.tensor([[3.0, 4.0, 0.0, 0.0]]).double()
    y = ops.rms_norm(x, torch.ones(4).double(), 0.5, eps_outside=True)
    assert y.tolist() == [pytest.approx([1.0, 4 / 3, 0.0, 0.0])]
    zero = ops.rms_norm(torch.zeros(1, 4), torch.ones(4), 0.5, eps_outside=True)
    assert zero.tolist() == [[0.0] * 4]


@pytest.mark.parametrize(
    ("name", "op", "options"),
    [
        ("silu", ops.swiglu, ()),
        ("gelu_pytorch_tanh", ops.geglu, ()),
        ("gelu", ops.geglu, (False,)),
    ],
)
def test_gated_units_are_those_of_transformers(name: str, op: ops.Op, options: tuple) -> None:  # type: ignore[type-arg]
    gate, up = 3 * random(4, 33), random(4, 34)[:, :33]
    torch.testing.assert_close(op(gate, up, *options), ACT2FN[name](gate) * up)


@pytest.mark.parametrize(("name", "tanh"), [("gelu", False), ("gelu_pytorch_tanh", True)])
def test_gelu_is_that_of_transformers(name: str, tanh: bool) -> None:
    x = 3 * random(4, 33)
    torch.testing.assert_close(ops.gelu(x, tanh), ACT2FN[name](x))


def test_layer_norm_takes_the_mean_away_and_divides_by_the_deviation() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, 6.0]]).double()
    weight, bias = torch.tensor([[1.0, 2.0, 1.0, 1.0], [0.0, 0.0, 5.0, 0.0]]).double()
    y = ops.layer_norm(x, weight, bias, 0.5)
    root = 4.0**0.5  # of the variance 14/4 and eps
    assert y.tolist() == [pytest.approx([-2 / root, -2 / root, 5.0, 3 / root])]
    narrow = ops.layer_norm(*(t.bfloat16() for t in (x, weight, bias)), 0.5)
    torch.testing.assert_close(narrow, y.bfloat16())


def test_pooling() -> None:
    x_TD = torch.arange(12.0).view(6, 2)
    assert ops.pool(x_TD, (1, 3, 2), "mean").tolist() == [[0, 1], [4, 5], [9, 10]]
    assert ops.pool(x_TD, (1, 3, 2), "first").tolist() == [[0, 1], [2, 3], [8, 9]]
    assert ops.pool(x_TD, (1, 3, 2), "last").tolist() == [[0, 1], [6, 7], [10, 11]]
    many = torch.full((4096, 1), 1.0 + 2**-7).bfloat16()
    assert torch.equal(ops.pool(many, (4096,), "mean"), many[:1]), "summed in a narrow dtype"


def test_embeddings_of_the_parts_of_a_vocabulary_add_up() -> None:
    weight_VD, tokens_T = random(12, 5), torch.tensor([0, 11, 3, 4, 7, 3])
    parts = [ops.embedding(tokens_T, weight_VD[i : i + 4], first=i) for i in (0, 4, 8)]
    assert torch.equal(sum(parts), weight_VD[tokens_T])  # type: ignore[arg-type]


def test_an_ignored_target_has_no_loss_and_no_gradient() -> None:
    logits = random(3, 7).requires_grad_()
    losses = ops.cross_entropy(logits, torch.tensor([2, -1, 6]), ignore=-1)
    want = F.cross_entropy(logits[[0, 2]], torch.tensor([2, 6]), reduction="none")
    torch.testing.assert_close(losses[[0, 2]], want)
    losses.sum().backward()
    assert losses[1] == 0
    assert logits.grad is not None
    assert (logits.grad[1] == 0).all()


def test_losses_of_bfloat16_logits_are_float32() -> None:
    logits = random(3, 7).bfloat16()
    losses = ops.cross_entropy(logits, torch.tensor([2, 0, 6]))
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, ops.cross_entropy(logits.float(), torch.tensor([2, 0, 6])))


def test_a_target_outside_of_the_vocabulary_is_an_error() -> None:
    with pytest.raises(IndexError, match="out of bounds"):
        ops.cross_entropy(random(1, 7), torch.tensor([7]))


def test_kv_write_changes_its_slots_alone_also_of_strided_caches() -> None:
    caches = torch.zeros(2, 3, 4, 2, 5)
    strided = caches.transpose(3, 4)
    k, v = random(2, 2, 5), random(2, 2, 6)[..., :5]
    ops.kv_write(caches[0], caches[1], k, v, torch.tensor([9, 2]))
    assert torch.equal(caches[0, 2, 1], k[0])
    assert torch.equal(caches[1, 0, 2], v[1])
    assert caches.count_nonzero() == k.numel() + v.numel()
    ops.kv_write(strided[0], strided[1], k.mT, v.mT, torch.tensor([0, 1]))
    assert torch.equal(strided[1, 0, 1], v[1].mT)


def test_kv_write_rounds_to_the_dtype_of_the_cache() -> None:
    cache = torch.zeros(1, 2, 1, 4, dtype=torch.bfloat16)
    k = random(1, 1, 4)
    ops.kv_write(cache, cache.clone(), k, k, torch.tensor([1]))
    assert torch.equal(cache[0, 1], k[0].bfloat16())
