"""What is computed: every op, and what is needed to call, trace and extend them."""

from pieria.ops.add import add
from pieria.ops.add_rms_norm import add_rms_norm
from pieria.ops.attention import attention
from pieria.ops.cast import cast
from pieria.ops.causal_conv import causal_conv
from pieria.ops.collectives import all_gather, all_reduce
from pieria.ops.cross_entropy import cross_entropy
from pieria.ops.delta_gates import delta_gates
from pieria.ops.embedding import embedding
from pieria.ops.experts import experts
from pieria.ops.gated_delta import gated_delta
from pieria.ops.gated_linear import Activation, gated_linear
from pieria.ops.geglu import geglu
from pieria.ops.gelu import gelu
from pieria.ops.head_linear import head_linear
from pieria.ops.kv_write import kv_write
from pieria.ops.latent_attention import latent_attention
from pieria.ops.latent_write import latent_write
from pieria.ops.layer_norm import layer_norm
from pieria.ops.linear import linear
from pieria.ops.linears import linears
from pieria.ops.op import (
    REFERENCE,
    REGISTRY,
    Backward,
    Call,
    Case,
    Cost,
    Impl,
    Inputs,
    Op,
    backends,
    load,
    map_tensors,
    nbytes,
    service,
    trace,
    use,
    widen,
)
from pieria.ops.paged_attention import Paging, paged_attention
from pieria.ops.paged_latent_attention import paged_latent_attention
from pieria.ops.pipeline import broadcast, receive, send
from pieria.ops.pool import pool
from pieria.ops.rms_norm import rms_norm
from pieria.ops.rope import rope
from pieria.ops.rotary import rotary
from pieria.ops.route import route
from pieria.ops.sample import Draws, key, sample
from pieria.ops.sigmoid_gate import sigmoid_gate
from pieria.ops.slots import Slots
from pieria.ops.soft_cap import soft_cap
from pieria.ops.swiglu import swiglu
from pieria.ops.token_logprobs import token_logprobs
from pieria.ops.weight import Format, Weight, dense, product

__all__ = [
    "REFERENCE",
    "REGISTRY",
    "Activation",
    "Backward",
    "Call",
    "Case",
    "Cost",
    "Draws",
    "Impl",
    "Inputs",
    "Op",
    "Paging",
    "Slots",
    "Format",
    "Weight",
    "add",
    "add_rms_norm",
    "all_gather",
    "all_reduce",
    "attention",
    "backends",
    "broadcast",
    "cast",
    "causal_conv",
    "cross_entropy",
    "delta_gates",
    "dense",
    "embedding",
    "experts",
    "gated_delta",
    "gated_linear",
    "geglu",
    "gelu",
    "head_linear",
    "key",
    "kv_write",
    "latent_attention",
    "latent_write",
    "layer_norm",
    "linear",
    "linears",
    "load",
    "map_tensors",
    "nbytes",
    "paged_attention",
    "paged_latent_attention",
    "pool",
    "product",
    "receive",
    "rms_norm",
    "rope",
    "rotary",
    "route",
    "sample",
    "send",
    "service",
    "sigmoid_gate",
    "soft_cap",
    "swiglu",
    "token_logprobs",
    "trace",
    "use",
    "widen",
]
