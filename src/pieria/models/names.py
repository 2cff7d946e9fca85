"""What a module of `Decoder` is called in files.

Families publish under names of their own, which their files here list; GGUF has one naming for all.
"""

import re
from collections.abc import Mapping

GGUF_NAMES = {
    "embed": "token_embd",
    "layers.{}.mixer_norm": "blk.{}.attn_norm",
    "layers.{}.mixer.q": "blk.{}.attn_q",
    "layers.{}.mixer.k": "blk.{}.attn_k",
    "layers.{}.mixer.v": "blk.{}.attn_v",
    "layers.{}.mixer.o": "blk.{}.attn_output",
    "layers.{}.mlp_norm": "blk.{}.ffn_norm",
    "layers.{}.mlp.gate": "blk.{}.ffn_gate",
    "layers.{}.mlp.up": "blk.{}.ffn_up",
    "layers.{}.mlp.down": "blk.{}.ffn_down",
    "norm": "output_norm",
    "head": "output",
}


def file_name(name: str, names: Mapping[str, str]) -> str:
    """The name in a file of a weight that `Decoder` calls `name`, such as
    layers.3.mixer.q.weight.
    """
    module, _, kind = name.rpartition(".")
    number = re.search(r"\d+", module)
    pattern = re.sub(r"\d+", "{}", module, count=1)
    return f"{names[pattern].format(number[0] if number else '')}.{kind}"
