"""What a trace of a model counts, whichever ops do several things at once."""

from collections.abc import Sequence

from pieria.ops.op import Call

PRODUCTS = ("linear", "linears", "head_linear", "experts")
NORMS = ("rms_norm", "add_rms_norm", "layer_norm")


def product_flops(calls: Sequence[Call]) -> int:
    """Of products with weights."""
    gated = [
        4 * call.arguments[0].shape[-1] * call.out.numel()
        for call in calls
        if call.op.name == "gated_linear"
    ]
    return sum(gated) + sum(call.cost.flops for call in calls if call.op.name in PRODUCTS)


def norms(calls: Sequence[Call]) -> int:
    return sum(call.op.name in NORMS for call in calls)
