"""How an engine in a process of its own is asked to generate: a JSON line each way.

    {"prompts": [[token, ...], ...], "tokens": n}  ->  {"seconds": s, "outputs": [[token, ...]]}

The first line that comes, {"ready": seconds}, says that the model is loaded. Knows no engine, and
is read by interpreters that have nothing of ours installed.
"""

import json
import os
import sys
from collections.abc import Callable
from time import perf_counter

Generate = Callable[[list[list[int]], int], list[list[int]]]
"""(prompts, n) -> n greedy tokens for each, whatever they are, an end of text too."""


def serve(load: Callable[[str, dict], Generate]) -> None:
    """Answer until standard input ends. load(model, settings): from the command line."""
    # Engines print to standard output as they please; answers go where it led before.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    began = perf_counter()
    generate = load(sys.argv[1], json.loads(sys.argv[2]))
    print(json.dumps({"ready": perf_counter() - began}), file=answers, flush=True)
    for line in sys.stdin:
        work = json.loads(line)
        began = perf_counter()
        outputs = generate(work["prompts"], work["tokens"])
        seconds = perf_counter() - began
        print(json.dumps({"seconds": seconds, "outputs": outputs}), file=answers, flush=True)
