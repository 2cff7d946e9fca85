"""How long predicting a step takes: what the planner's simulations are made of.

    python -m benchmarks.predicted_step

Median microseconds of `Predictor.__call__` for steps of 32 requests, most of them single tokens.
"""

from random import Random
from statistics import median

from pieria.clock import RealTime
from pieria.engine.plan import Chunk, Draw, StepPlan
from pieria.hardware import catalog
from pieria.parallel.mesh import Mesh
from pieria.plan.predict import Predictor
from pieria.plan.presets import preset
from pieria.plan.routing import ROUTINGS

MODELS = ("llama-3.1-8b", "gpt-oss-20b", "deepseek-v2", "qwen3-30b-a3b", "qwen3-next")
REQUESTS = 32
STEPS = 2000


def main() -> None:
    clock = RealTime()
    for name in MODELS:
        for routing in ("balanced", "skewed"):
            predictor = Predictor(
                preset(name).model(),
                Mesh(tp=2),
                catalog.cluster("mtt-s5000"),
                routing=ROUTINGS[routing],
            )
            plans = _plans(len(predictor.layout.windows))
            for plan in plans:
                predictor(plan)
            times = []
            for plan in plans:
                begun = clock.now()
                predictor(plan)
                times.append(clock.now() - begun)
            print(f"{name:>16} {routing:>9}: {median(times) * 1e6:5.1f} us a step")


def _plans(tables: int) -> list[StepPlan]:
    random = Random(0)
    made = []
    for i in range(STEPS):
        chunks = []
        for r in range(REQUESTS):
            start = random.randint(1, 4000)
            count = random.randint(2, 400) if r == 0 and i % 8 == 0 else 1
            pages = ((0,) * -(-(start + count) // 16),) * tables
            chunks.append(Chunk(str(r), start, (0,) * count, pages, 0, 0, draw=Draw(0)))
        made.append(StepPlan(tuple(chunks)))
    return made


if __name__ == "__main__":
    main()
