"""What broke readers of model files, each under the name it is known by."""

import re
import struct
from pathlib import Path

import pytest

from pieria.models.checkpoint import PICKLED, open_checkpoint
from pieria.models.gguf import read_gguf
from tests.models.gguf_bytes import ARRAY, STRING, file, pair, tensor

BLOCK = 32
Q8_0 = 8


@pytest.mark.parametrize("suffix", PICKLED)
def test_cve_2025_24357_weights_that_run_code_are_refused(suffix: str, tmp_path: Path) -> None:
    """And CVE-2025-32434."""
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / f"pytorch_model{suffix}").write_bytes(b"cos\nsystem\n(S'id'\ntR.")
    with pytest.raises(ValueError, match="a pickle, and loading one runs code") as raised:
        open_checkpoint(tmp_path)
    assert "convert them to safetensors" in str(raised.value)


@pytest.mark.parametrize(
    "shape",
    [
        # Bytes, rounded up to blocks or counted in 64 bits, come to little or nothing.
        (2**62, 4),
        (2**32, 2**32),
        (2**31, 2**31, 2**2),
        (2**64 - 1,),
        (2**63, BLOCK),
        (2**59, BLOCK),
    ],
)
@pytest.mark.parametrize("kind", [0, Q8_0])
def test_cve_2026_27940_cve_2025_53630_sizes_that_overflow(
    shape: tuple[int, ...], kind: int, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(file([], [tensor("t", shape, kind, 0)], bytes(4096)))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read_gguf(path)


@pytest.mark.parametrize(
    ("numbers", "offset"),
    [(1024, 4096), (1025, 0), (1024, 32), (8, 2**63), (8, 2**64 - 32), (2**40, 0)],
)
def test_cve_2026_7482_no_tensor_lies_beyond_the_file(
    numbers: int, offset: int, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    for at, count in ((offset, numbers), (0, 1024)):
        path.write_bytes(file([], [tensor("t", (count,), 0, at)], bytes(4096)))
        if (at, count) == (0, 1024):
            assert read_gguf(path).tensors["t"].byte_count == 4096
        else:
            with pytest.raises(ValueError, match=r"'t' ends at byte|empty or too large"):
                read_gguf(path)


@pytest.mark.parametrize("length", [2**31, 2**32 - 1, 2**63, 2**64 - 1])
def test_ghsa_7rxv_5jhh_j6xx_lengths_that_change_their_sign(length: int, tmp_path: Path) -> None:
    """Of strings, and of lists of tokens."""
    path = tmp_path / "m.gguf"
    for value in (
        pair("k", STRING, struct.pack("<Q", length)),
        pair("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, length)),
        pair("tokenizer.ggml.scores", ARRAY, struct.pack("<IQ", 6, length)),
    ):
        path.write_bytes(file([value]))
        with pytest.raises(ValueError, match=re.escape(str(path))):
            read_gguf(path)
