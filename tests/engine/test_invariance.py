"""Every family in bfloat16 on this processor's kernels: no bit of a token's logprobs depends on
what else is computed with it, how its prompt is split, or what is found in the cache.
"""

import pytest
import torch

from pieria.models.decoder import Decoder
from pieria.models.keys import Keys
from pieria.models.registry import model_config
from pieria.parallel.mesh import Mesh
from tests.engine.real import engine, fill
from tests.engine.test_capture import requests, served
from tests.engine.test_family_tokens import FAMILIES, SHAPE
from tests.ops.harness import only

OTHER_KERNELS = {"Qwen3Next", "Qwen3_5Moe", "Qwen3_5"}
"""Their recurrent layers have no kernel of ours yet; torch's gives other bits by chunk."""

INVARIANT = [name for name in FAMILIES if name not in OTHER_KERNELS]


@pytest.mark.parametrize("name", INVARIANT)
def test_no_bit_depends_on_what_else_is_computed(name: str) -> None:
    keys = Keys(
        {**SHAPE, "architectures": [f"{name}ForCausalLM"], **FAMILIES[name]}, f"a tiny {name}"
    )
    with only("cpu", "torch"):
        decoder = fill(Decoder(model_config(keys), Mesh(), torch.bfloat16))
        decoder.pack()
        alone = {}
        for message in requests():
            alone |= served(engine(decoder, enable_prefix_caching=False), [message])
        whole = engine(decoder, records=True)
        for _ in range(2):  # the second time on cached beginnings
            assert served(whole, requests()) == alone
        assert whole.stats.prefix_hits
        split = engine(decoder, max_num_batched_tokens=5, max_num_seqs=4)
        assert served(split, requests()) == alone
