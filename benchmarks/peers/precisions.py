"""In how many bits weights are, and what each engine calls that. Knows no files and no commands.

What is compared is equal: every matrix, embedding and output layer too, has as many bits in all
engines, or more in the others. Where an engine is not named it has no such weights, or not here.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Precision:
    """weights: of each engine that has them, for the report. quantize: Pieria's option.

    gguf: the type of llama-quantize; same_file: Pieria reads that file too. openvino: options of
    its exporter. aims: ratios to the best peer by work; None: the works' own.
    """

    name: str
    weights: Mapping[str, str]
    quantize: str = "none"
    gguf: str = "BF16"
    same_file: bool = False
    openvino: tuple[str, ...] = ("--weight-format", "fp16")
    aims: Mapping[str, str] | None = None


def _same_file(gguf: str, aims: Mapping[str, str]) -> Precision:
    """One file of llama-quantize in both engines."""
    weights = {"pieria": f"{gguf}, the same file", "llama.cpp": gguf}
    return Precision(gguf.lower(), weights, "stored", gguf, True, aims=aims)


SIXTEEN = Precision(
    "16bit",
    {
        "pieria": "bf16",
        "llama.cpp": "BF16",
        "vllm": "bf16",
        "openvino": "fp16",
        "transformers": "bf16",
    },
)
PRECISIONS = (
    SIXTEEN,
    Precision(
        "int8",
        {
            "pieria": "int8 for all matrices, a scale for an output, activations a token",
            "llama.cpp": "Q8_0",
            "vllm": "int8, activations a token, written by `pieria quantize`; embedding and output"
            " in bf16",
            "openvino": "int8 for all matrices, a scale for an output",
        },
        "int8",
        "Q8_0",
        openvino=("--weight-format", "int8"),
        aims={"decode": "1.25", "prompt-512": "1.25", "prompt-2048": "1.25", "batch": "1.5"},
    ),
    Precision(
        "int4",
        {
            "pieria": "int4 with a scale for 32 inputs; embedding and output in int8",
            "llama.cpp": "Q4_0; embedding and output in Q6_K, or Q8_0 where that does not divide",
            "openvino": "int4 with a scale for 32 inputs; embedding and output in int8",
        },
        "int4",
        "Q4_0",
        openvino=(
            *("--weight-format", "int4", "--sym", "--group-size", "32", "--ratio", "1.0"),
            *("--backup-precision", "int8_sym"),
        ),
        aims={"decode": "1.25"},
    ),
    _same_file("Q8_0", {"decode": "1.25"}),
    _same_file("Q4_0", {"decode": "1.25"}),
    _same_file("Q4_K_M", {"decode": "1.1", "prompt-512": "2.0"}),
)
NAMES = tuple(precision.name for precision in PRECISIONS)
