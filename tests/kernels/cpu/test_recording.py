"""Recorded calls against the same calls made anew, bit for bit."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native
from pieria.kernels.cpu.recording import Arena, record
from tests.ops.harness import only


def test_a_replay_computes_from_what_is_in_the_inputs_then(isa: str) -> None:
    with only("cpu", "torch"):
        packed = tuple(ops.linear.pack(torch.randn(48, 32)) for _ in range(2))
        norm, positions = torch.rand(32), torch.arange(5)
        frequencies = torch.ones(8)
        x = torch.randn(5, 32)

        def network() -> Tensor:
            normed = ops.rms_norm(x, norm, 1e-5)
            first, second = ops.linears(normed, packed, (None, None))
            turned = ops.rope(first.view(5, 3, 16), *ops.rotary(positions, frequencies))
            return ops.sigmoid_gate(turned.flatten(1), second)

        with record(Arena(), lambda: 0) as recording:
            out = network()
        assert recording.obstacle is None
        assert torch.equal(out, network())
        for _ in range(3):
            x.copy_(torch.randn(5, 32))
            positions += 100
            wanted = network()
            assert not torch.equal(out, wanted)
            recording.replay()
            assert torch.equal(out, wanted)


def test_nothing_may_be_recorded() -> None:
    with record(Arena(), lambda: 0) as recording:
        pass
    recording.replay()
    assert recording.obstacle is None
    assert len(recording) == 0


def test_what_torch_computes_is_an_obstacle() -> None:
    with only("cpu", "torch"):
        x, norm = torch.randn(3, 16), torch.rand(16)
        done: list[int] = []
        with record(Arena(), done.__len__) as recording:
            normed = ops.rms_norm(x, norm, 1e-5)
            done.append(1)
            torch.tanh(normed.view(48))
            torch.relu(normed)
        assert (recording.obstacle, recording.at) == ("aten.tanh.default", 1)
        with pytest.raises(AssertionError, match=r"aten\.tanh\.default was not recorded"):
            recording.replay()


@pytest.mark.parametrize("copy", ["to", "reshape", "contiguous"])
@torch.inference_mode()
def test_a_view_that_turns_out_to_be_a_copy_is_an_obstacle(copy: str) -> None:
    x = torch.randn(4, 6)
    with record(Arena(), lambda: 0) as recording:
        x.view(2, 12).to(torch.float32).reshape(4, 6).contiguous()
        assert recording.obstacle is None
        if copy == "to":
            x.to(torch.bfloat16)
        elif copy == "reshape":
            x.T.reshape(24)
        else:
            x.T.contiguous()
    assert recording.obstacle is not None


def test_recordings_share_the_arena_and_do_not_overlap_in_it() -> None:
    arena = Arena()
    with record(arena, lambda: 0):
        first = [torch.empty(1000), torch.empty(7, dtype=torch.bfloat16), torch.empty(3_000_000)]
    with record(arena, lambda: 0):
        again = [torch.empty(1000), torch.empty(7, dtype=torch.bfloat16), torch.empty(3_000_000)]
    assert [x.data_ptr() for x in first] == [x.data_ptr() for x in again]
    spans = sorted((x.data_ptr(), x.data_ptr() + x.numel() * x.element_size()) for x in first)
    assert all(end <= begin for (_, end), (begin, _) in zip(spans, spans[1:], strict=False))
    assert all(x.data_ptr() % 64 == 0 for x in first)


def test_what_is_gone_is_used_again() -> None:
    arena = Arena()
    with record(arena, lambda: 0):
        kept, gone = torch.empty(100), torch.empty(100)
        view, address = gone.view(10, 10)[3:], gone.data_ptr()
        del gone
        other = torch.empty(100)
        assert len({address, kept.data_ptr(), other.data_ptr()}) == 3
        del view
        assert torch.empty(100, dtype=torch.int32).data_ptr() == address
        assert torch.empty(0, 3).shape == (0, 3)
    with record(arena, lambda: 0):
        again = [torch.empty(100) for _ in range(2)]
        del kept, other  # of the recording before: not to be given away twice
        again += [torch.empty(100) for _ in range(4)]
        assert len({x.data_ptr() for x in again}) == 6


def test_only_one_recording_at_a_time() -> None:
    again = record(Arena(), lambda: 0)
    with record(Arena(), lambda: 0), pytest.raises(AssertionError, match="is being made"):
        again.__enter__()
    assert native.active().recorder is None


FRESH = """
import sys, torch
from pieria import ops
from pieria.kernels.cpu.recording import Arena, record
ops.use("cpu")
with torch.inference_mode(), record(Arena(), lambda: 0) as recording:
    ops.rms_norm(torch.ones(1, 8), torch.ones(8), 1e-6)
assert len(recording) == 1, recording.obstacle
print("torch._dynamo" in sys.modules)
"""


def test_recording_does_not_import_a_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
