"""OpenVINO GenAI with continuous batching. settings: scheduler's and device's."""

import numpy as np
import openvino
import openvino_genai
from protocol import Generate, serve


def load(model: str, settings: dict) -> Generate:
    scheduler = openvino_genai.SchedulerConfig()
    for name, value in settings["scheduler"].items():
        setattr(scheduler, name, value)
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        model, scheduler, "CPU", settings["device"]
    )

    def generate(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = tokens
        config.ignore_eos = True
        config.do_sample = False
        asked = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        outputs = pipeline.generate(asked, [config] * len(asked))
        return [list(map(int, output.m_generation_ids[0])) for output in outputs]

    return generate


if __name__ == "__main__":
    serve(load)
