"""The tokenizer.ggml.* keys of a small byte-level vocabulary, so that tests can change them."""

from array import array
from typing import Any

from pieria.models.tokenizer import BYTE_OF

BYTES = list(BYTE_OF)
"""GPT-2's stand-ins for the 256 bytes: tokens of which any text can be made."""


def gguf_keys(pre: str | None, **changes: Any) -> dict[str, Any]:
    """256 bytes, two control tokens and one that was added. A change to None takes a key away."""
    values = {
        "model": "gpt2",
        "pre": pre,
        "tokens": [*BYTES, "<s>", "</s>", "  x"],
        "merges": [],
        "token_type": array("i", [1] * 256 + [3, 3, 4]),
        "bos_token_id": 256,
        "eos_token_id": 257,
        **changes,
    }
    return {f"tokenizer.ggml.{k}": v for k, v in values.items() if v is not None}
