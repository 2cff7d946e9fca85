"""How an engine runs what a model describes: what it fuses, launches, hides, and loses on the host.

Each number has a source. None is fitted to what an engine was measured to serve.
"""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Practice:
    """fuses: products of the same rows are one, and so are neighbours that only move bytes.

    expands: latent attention of prompts makes keys and values of each head, as it is cheaper.
    repeats: where there are fewer key heads than ranks, several ranks have the same one.
    one_shot: small all-reduces are one exchange in which every rank reads all others.
    tuned_blocks: products with a scale for each block of weights are as good as with one for all.
    grouped: experts are one product of each one's rows, as fast as a plain one of as many rows.
    graph_tokens: steps of single tokens, and at most so many, are replayed from a captured graph.
    expert_launches: of one layer's experts: tokens are sorted, gathered and added up around two
    products, each of rounded and scaled rows.
    launch_seconds: host time of one kernel that is not replayed; None: the device's own launch
    cost. host_seconds, host_each: of each step, and for each request in it, on the host while the
    device waits. overlap: share of the shorter of computing and exchanging that runs beside the
    longer. exchange_units: of a card's multiprocessors, the share that such exchanges take from
    computing, where links have no copy engines. pipelined: the results of a step are looked at once
    the next one is launched. padded: ranks that have requests of their own and share experts
    compute, in each step, as many tokens as the fullest of them has.

    order, budget, chunked: how prompts are batched; see `closed_loop.Batching`. most_running:
    requests at once. front_seconds, front_token: between a user and the engine, both ways together,
    and for each token of the prompt, one prompt after the other.
    """

    name: str
    fuses: bool
    expands: bool
    repeats: bool
    one_shot: bool
    graph_tokens: int
    tuned_blocks: bool = False
    grouped: bool = False
    expert_launches: int = 9
    launch_seconds: float | None = None
    host_seconds: float = 0.0
    host_each: float = 0.0
    overlap: float = 0.0
    exchange_units: float = 0.0
    pipelined: bool = False
    padded: bool = False
    order: Literal["mixed", "prompts"] = "mixed"
    budget: int = 8192
    chunked: bool = True
    most_running: int = 1024
    front_seconds: float = 0.0
    front_token: float = 0.0
    front_each: float = 0.0


PIERIA = Practice(
    "pieria",
    fuses=False,
    expands=False,
    repeats=False,
    one_shot=False,
    graph_tokens=0,
)
"""This project's runner as it is: one call after the other."""

ENGINE = Practice(
    "engine",
    fuses=True,
    expands=True,
    repeats=True,
    one_shot=True,
    graph_tokens=512,
    front_seconds=8e-3,
    front_token=5e-6,
    front_each=1e-3,
)
"""What serving engines for GPUs do today.

front: vLLM takes 12.4 ms to the first token of Qwen3-0.6B on an A100 after 128 tokens and 21.0
after 1024 (tenstorrent/tt-inference-server issue 340), of which the model's step is some 4 and 7.
"""

LAUNCH_SECONDS = 35e-6
"""Of a kernel that Python launches: DeepSeek-V3's prompt step takes 82.6 ms for one token, and 23.1
as a graph (sgl-project/sglang pull request 12160); at 40 kernels a layer those are 34 us each.
Qwen3-4B's takes 16.4 ms for 129 tokens, 5.7 as a graph (wejoncy/sfllm pull request 46): 35 us.
"""

VLLM = replace(ENGINE, name="vllm", budget=2048, host_seconds=0.5e-3, host_each=13e-6, padded=True)
"""host: its engine loop alone takes 0.54 ms a step, and 12.7 us more for each request (vLLM 0.27
without a device, openfabric-systems/simllm pull request 204). Compiled, it launches as the device
allows.

padded: "forward passes must be aligned", with dummy ones where a rank has no requests
(docs.vllm.ai, serving/data_parallel_deployment); and coordinate_batch_across_dp pads all ranks to
the most tokens unless CUDA graphs are off (v1/worker/gpu_model_runner.py, allow_dp_padding).
"""

SGLANG = replace(
    ENGINE,
    name="sglang",
    order="prompts",
    tuned_blocks=True,
    launch_seconds=LAUNCH_SECONDS,
    pipelined=True,
)
TRTLLM = replace(
    ENGINE,
    name="trtllm",
    chunked=False,
    tuned_blocks=True,
    grouped=True,
    expert_launches=2,
    launch_seconds=LAUNCH_SECONDS,
    pipelined=True,
    most_running=2048,
)
"""expert_launches: torch.ops.trtllm.fused_moe does all that follows the choice of experts.

Both prepare a step on the host while the device computes the one before, so that it never waits
for more than launches.
"""

PRACTICES = {"": ENGINE, **{p.name: p for p in (PIERIA, ENGINE, VLLM, SGLANG, TRTLLM)}}
