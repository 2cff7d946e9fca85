"""`pieria bench throughput`: many prompts in one process, without a server.

Knows the workloads that need no clock, and `LLM`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pieria.bench.options import WorkloadOptions
from pieria.bench.workload import Conversation
from pieria.clock import Clock
from pieria.engine.sampling_params import SamplingParams
from pieria.llm import LLM


@dataclass(frozen=True)
class Throughput:
    """What `requests` took together, prompts and answers counted in tokens."""

    requests: int
    seconds: float
    input_tokens: int
    output_tokens: int

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __str__(self) -> str:
        return (
            f"Throughput: {self.requests / self.seconds:.2f} requests/s,"
            f" {self.tokens / self.seconds:.2f} total tokens/s,"
            f" {self.output_tokens / self.seconds:.2f} output tokens/s\n"
            f"{self.requests} requests, {self.input_tokens} + {self.output_tokens} tokens"
            f" in {self.seconds:.2f} s"
        )

    def save(self, path: Path) -> None:
        """As JSON, with the names that vLLM gives them."""
        found = {
            "elapsed_time": self.seconds,
            "num_requests": self.requests,
            "total_num_tokens": self.tokens,
            "requests_per_second": self.requests / self.seconds,
            "tokens_per_second": self.tokens / self.seconds,
            "output_tokens_per_second": self.output_tokens / self.seconds,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")


def check(options: WorkloadOptions) -> None:
    """ValueError for a workload that needs a server, or somebody who answers."""
    if options.dataset_name in ("multi-turn", "trace") or not options.tokenize_prompt:
        raise ValueError(
            f"dataset_name={options.dataset_name}, tokenize_prompt={options.tokenize_prompt}:"
            " in one process there are random and shared-prefix, as token ids"
        )


def run(
    llm: LLM,
    conversations: Sequence[Conversation],
    warm_up: Sequence[Conversation],
    clock: Clock,
    progress: bool = True,
) -> Throughput:
    """All first turns at once, greedy and as long as asked for, after those of `warm_up`."""
    for several in (warm_up, conversations):
        turns = [conversation.turns[0] for conversation in several]
        params = [
            SamplingParams(temperature=0, max_tokens=turn.output_tokens, ignore_eos=True)
            for turn in turns
        ]
        began = clock.now()
        outputs = llm.generate([turn.tokens for turn in turns], params, progress=progress)
        seconds = clock.now() - began
    return Throughput(
        requests=len(outputs),
        seconds=seconds,
        input_tokens=sum(len(output.prompt_token_ids) for output in outputs),
        output_tokens=sum(len(output.outputs[0].token_ids) for output in outputs),
    )
