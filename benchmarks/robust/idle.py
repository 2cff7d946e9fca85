"""How much of a core a server takes that nobody asks anything.

    python -m benchmarks.robust.idle

Exits with 1 if all of its processes together take `MOST` of one core or more.
"""

import argparse
import sys

from pieria.bench.process import Server, end_when_told, free_port
from pieria.clock import RealTime
from pieria.models.pull import pull

MOST = 0.01
SETTLE_SECONDS = 5.0


def busy_seconds(server: Server) -> float:
    """Processor time of all its processes so far."""
    times = [process.cpu_times() for process in server.processes()]
    return sum(time.user + time.system for time in times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    end_when_told()
    clock, port = RealTime(), free_port()
    command = [sys.executable, "-m", "pieria.cli", "serve", str(pull(options.model))]
    command += ["--served-model-name", "m"]
    with Server([*command, "--port", str(port)], port, clock) as server:
        server.wait("/ready", 300)
        # One answer, so that what is done once is done.
        server.request("/v1/completions", b'{"model": "m", "prompt": "a", "max_tokens": 1}')
        clock.sleep(SETTLE_SECONDS)
        before, began = busy_seconds(server), clock.now()
        clock.sleep(options.seconds)
        share = (busy_seconds(server) - before) / (clock.now() - began)
    print(
        f"an idle server takes {100 * share:.2f} % of a core; at most {100 * MOST:g} % is allowed"
    )
    return 1 if share >= MOST else 0


if __name__ == "__main__":
    sys.exit(main())
