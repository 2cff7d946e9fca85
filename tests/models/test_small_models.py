"""Every family on the meta device, where it would be an error to read a tensor's value."""

import pytest
import torch

from pieria import ops
from pieria.models.context import Packed
from pieria.models.decoder import Decoder
from pieria.models.keys import Keys
from pieria.models.registry import ARCHITECTURES, SHARED_NAMES, family, model_config
from pieria.parallel.mesh import Mesh
from tests.models.small_configs import CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_and_costs_are_known_without_values(name: str) -> None:
    model = Decoder(model_config(Keys(CONFIGS[name], name)), Mesh(), torch.bfloat16)
    tokens = torch.zeros(7, dtype=torch.int64, device="meta")
    with ops.trace() as calls:
        hidden = model(tokens, Packed.of((4, 3), "meta"))
        assert (hidden.shape, hidden.device.type) == ((7, 8), "meta")
        if model.config.generates:
            assert model.logits(hidden[-2:]).shape == (2, 3)
    assert sum(call.cost.flops for call in calls) > 1000
    assert all(call.cost.bytes > 0 for call in calls if call.cost.flops)


def test_every_family_is_here() -> None:
    families = {
        *ARCHITECTURES.values(),
        *(f for own in SHARED_NAMES.values() for f in own.values()),
    }
    here = {name: family(Keys(config, name)) for name, config in CONFIGS.items()}
    assert {*here.values()} == families
    assert all(found.__name__ == f"pieria.models.{name}" for name, found in here.items())
