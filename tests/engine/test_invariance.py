"""Every family in bfloat16 on this processor's kernels: no bit of a token's logprobs depends on
what else is computed with it, how its prompt is split, what is found in the cache, or whether a
step was recorded; and every family's steps are recorded, also of experts in few bits.
"""

from collections.abc import Iterator

import pytest
import torch

from pieria.engine.device_runner import DeviceRunner
from pieria.engine.engine import Engine
from pieria.models import bert
from pieria.models.decoder import Decoder
from pieria.models.keys import Keys
from pieria.models.parts import replace as hold
from pieria.models.registry import ARCHITECTURES, SHARED_NAMES, family, model_config
from pieria.ops.kv_write import LARGEST
from pieria.parallel.mesh import Mesh
from tests.engine.real import engine, fill
from tests.engine.test_capture import requests, served
from tests.engine.test_family_tokens import FAMILIES, SHAPE
from tests.ops.formats.test_products import FORMATS
from tests.ops.formats.test_products import held as in_format
from tests.ops.harness import only


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    with only("cpu", "torch"):
        yield


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
    made = engine(model(name, dtype), records=True)
    assert served(made, requests()[1:3])
    assert obstacle(made) is None


@pytest.mark.parametrize("name", FAMILIES)
def test_no_bit_depends_on_what_else_is_computed(name: str) -> None:
    check(model(name, torch.bfloat16))


HELD = ("Llama", "Gemma3", "GptOss", "DeepseekV3", "Qwen3Next")
"""Of all that attention does: windows, sinks, latents, states beside it."""


@pytest.mark.parametrize("held", LARGEST, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", HELD)
def test_no_bit_depends_on_it_where_keys_and_values_are_rounded(
    name: str, held: torch.dtype
) -> None:
    check(model(name, torch.bfloat16), held)


@pytest.mark.parametrize("format", FORMATS)
def test_no_bit_depends_on_it_in_any_format(format: str) -> None:
    """Of --quantize and of GGUF files: embedding, layers and output layer."""
    check(quantized("Llama", format, hidden_size=256, intermediate_size=512, head_dim=64))


def quantized(name: str, format: str, **sizes: int) -> Decoder:
    """A family's tiny model in bfloat16, its matrices in a format."""
    keys = {**SHAPE, **FAMILIES[name], "architectures": [f"{name}ForCausalLM"], **sizes}
    made = fill(Decoder(model_config(Keys(keys, name)), Mesh(), torch.bfloat16))
    for module in made.declaring():
        if module.quantizable:
            hold(module, "weight", in_format(format, module.weight))
    made.pack()
    return made


def check(decoder: Decoder, held: torch.dtype | None = None) -> None:
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
    check(quantized(name, format, hidden_size=64, intermediate_size=96))
