"""Every family in bfloat16 on this processor's kernels: no bit of a token's logprobs depends on
what else is computed with it, how its prompt is split, what is found in the cache, or whether a
step was recorded; and every family's steps are recorded, also of experts in few bits.
"""

import pytest
import torch

from pieria.engine.device_runner import DeviceRunner
from pieria.engine.engine import Engine
from pieria.models import bert
from pieria.models.decoder import Decoder
from pieria.models.keys import Keys
from pieria.models.parts import replace as hold
from pieria.models.registry import ARCHITECTURES, SHARED_NAMES, family, model_config
from pieria.ops.formats import QUANTIZED
from pieria.ops.kv_write import LARGEST
from pieria.parallel.mesh import Mesh
from tests.engine.real import engine, fill
from tests.engine.test_capture import requests, served
from tests.engine.test_family_tokens import FAMILIES, SHAPE
from tests.ops.harness import only


def keys_of(name: str) -> Keys:
    return Keys(
        {**SHAPE, "architectures": [f"{name}ForCausalLM"], **FAMILIES[name]}, f"a tiny {name}"
    )


def model(name: str, dtype: torch.dtype) -> Decoder:
    made = fill(Decoder(model_config(keys_of(name)), Mesh(), dtype))
    made.pack()
    return made


def obstacle(made: Engine) -> str | None:
    """What kept steps from being recorded."""
    assert isinstance(made.runner, DeviceRunner) and made.runner.captured is not None
    return made.runner.captured.obstacle


def test_every_family_that_generates_is_tried() -> None:
    shared = [made for families in SHARED_NAMES.values() for made in families.values()]
    known = {id(made): made for made in (*ARCHITECTURES.values(), *shared)}
    tried = {id(family(keys_of(name))) for name in FAMILIES}
    assert [made for key, made in known.items() if key not in tried] == [bert]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", FAMILIES)
def test_steps_are_recorded(name: str, dtype: torch.dtype) -> None:
    """In bfloat16 below, with what comes out."""
    with only("cpu", "torch"):
        made = engine(model(name, dtype), records=True)
        assert served(made, requests()[1:3])
        assert obstacle(made) is None


@pytest.mark.parametrize("name", FAMILIES)
def test_no_bit_depends_on_what_else_is_computed(name: str) -> None:
    check(name, None)


HELD = ("Llama", "Gemma3", "GptOss", "DeepseekV3", "Qwen3Next")
"""Of all that attention does: windows, sinks, latents, states beside it."""


@pytest.mark.parametrize("held", LARGEST, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", HELD)
def test_no_bit_depends_on_it_where_keys_and_values_are_rounded(
    name: str, held: torch.dtype
) -> None:
    check(name, held)


def check(name: str, held: torch.dtype | None) -> None:
    with only("cpu", "torch"):
        decoder = model(name, torch.bfloat16)
        alone = {}
        for message in requests():
            alone |= served(engine(decoder, held=held, enable_prefix_caching=False), [message])
        whole = engine(decoder, held=held, records=True, states=256)
        for _ in range(2):  # the second time on cached beginnings
            assert served(whole, requests()) == alone
        assert whole.stats.prefix_hits
        assert obstacle(whole) is None
        split = engine(decoder, held=held, max_num_batched_tokens=5, max_num_seqs=4)
        assert served(split, requests()) == alone


@pytest.mark.parametrize("format", ["int8", "int8-g32", "int4-g32-zp", "fp8", "fp8-block"])
@pytest.mark.parametrize("name", ["Mixtral", "GptOss"])
def test_experts_in_few_bits(name: str, format: str) -> None:
    """Their steps are recorded, and no bit depends on what else is computed."""
    keys = {**SHAPE, **FAMILIES[name], "hidden_size": 64, "intermediate_size": 96}
    config = model_config(Keys({**keys, "architectures": [f"{name}ForCausalLM"]}, name))
    decoder = fill(Decoder(config, Mesh(), torch.bfloat16))
    for module in decoder.declaring():
        if module.quantizable:
            hold(module, "weight", QUANTIZED[format].quantize(module.weight))
    with only("cpu", "torch"):
        decoder.pack()
        alone = {}
        for message in requests()[:3]:
            alone |= served(engine(decoder, enable_prefix_caching=False), [message])
        whole = engine(decoder, records=True)
        assert served(whole, requests()[:3]) == alone
        assert obstacle(whole) is None
