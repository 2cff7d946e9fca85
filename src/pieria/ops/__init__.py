"""What is computed: every op, and what is needed to call, trace and extend them."""

from pieria.ops.attention import attention
from pieria.ops.collectives import all_gather, all_reduce
from pieria.ops.cross_entropy import cross_entropy
from pieria.ops.embedding import embedding
from pieria.ops.geglu import geglu
from pieria.ops.head_linear import head_linear
from pieria.ops.kv_write import kv_write
from pieria.ops.latent_attention import latent_attention
from pieria.ops.latent_write import latent_write
from pieria.ops.linear import linear
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
    trace,
    use,
    widen,
)
from pieria.ops.paged_attention import Paging, paged_attention
from pieria.ops.paged_latent_attention import paged_latent_attention
from pieria.ops.rms_norm import rms_norm
from pieria.ops.rope import rope
from pieria.ops.rotary import rotary
from pieria.ops.sample import Draws, key, sample
from pieria.ops.swiglu import swiglu
from pieria.ops.token_logprobs import token_logprobs

__all__ = [
    "REFERENCE",
    "REGISTRY",
    "Backward",
    "Call",
    "Case",
    "Cost",
    "Draws",
    "Impl",
    "Inputs",
    "Op",
    "Paging",
    "all_gather",
    "all_reduce",
    "attention",
    "backends",
    "cross_entropy",
    "embedding",
    "geglu",
    "head_linear",
    "key",
    "kv_write",
    "latent_attention",
    "latent_write",
    "linear",
    "load",
    "map_tensors",
    "nbytes",
    "paged_attention",
    "paged_latent_attention",
    "rms_norm",
    "rope",
    "rotary",
    "sample",
    "swiglu",
    "token_logprobs",
    "trace",
    "use",
    "widen",
]
