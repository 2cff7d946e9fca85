"""How each number of a report came about, in words: its formula, and the assumptions in it.

Knows what the planner does. Computes nothing.
"""

from dataclasses import dataclass

from pieria.plan.serve_report import ServeReport


@dataclass(frozen=True)
class Derivation:
    """number: what is explained. how: its formula. rests: on which numbers of the report."""

    number: str
    how: str
    rests: str


def derivations(report: ServeReport) -> tuple[Derivation, ...]:
    """Of every kind of number in the report."""
    apart = report.detail.wire is not None
    inferred = [a.what for a in report.assumptions if a.inferred and a.low]
    step = "the time of a step"
    found = [
        Derivation(
            "the time of a call",
            "max(flops / peak, bytes / bandwidth) / reached; `reached` is that same quotient of a"
            " measured table, between its points linear in logarithms",
            "peaks and bandwidth of the device; where its own calls were not measured, its share of"
            " the roofline over an H100's; tables: the column `from` of the calls",
        ),
        Derivation(
            "the time of an exchange",
            "a measured curve over bytes: what the smallest message takes grows with the fabric's"
            " latency, the rest with its payload",
            "latency, bandwidth and share of payload of what joins the cards",
        ),
        Derivation(
            step,
            "the sum of its calls, traced from the model's own code; and the start of a captured"
            " graph, or what launches take longer than all calls; and the host's share between"
            " steps",
            f"calls; launches and graphs of the device; the practice {report.practice!r}",
        ),
        Derivation(
            "TTFT",
            "first token - arrival, of each request of the simulation: between user and engine,"
            " waiting for a step with room, and the steps of its prompt",
            f"{step}; between users and the engine; the real scheduler's plans",
        ),
        Derivation(
            "TPOT",
            "(last token - first token) / (tokens of the answer - 1), of each request",
            f"{step}; who else is in the same steps",
        ),
        Derivation(
            "tokens/s, requests/s",
            "what was answered / the time from the first arrival to the last token",
            "TTFT, TPOT, and what the workload offers",
        ),
        Derivation(
            "requests/s within the SLO",
            f"those that kept to {report.slo}, over the same time",
            "TTFT and TPOT of each request",
        ),
        Derivation(
            "weights",
            "numbers of each tensor of a rank x bytes of the format, scales included",
            "the model's own shards; the precision",
        ),
        Derivation(
            "cache",
            "what memory allows beside weights, activations and buffers, in pages; at most what all"
            " seats need",
            "; ".join(f"{d.name}: {d.value} ({d.reason})" for d in report.detail.decisions)
            or "memory of the device",
        ),
        Derivation(
            "requests at once",
            "pages of the cache / pages of a request with that context, in every page table",
            "the model's cache: bytes a token, windows, states",
        ),
        Derivation(
            "at worst, at best",
            "the simulation again, every number of device and fabric at its worse or better bound",
            ", ".join(inferred) or "nothing: no number here is inferred",
        ),
    ]
    if apart:
        found.append(
            Derivation(
                "handing a prompt over",
                "latency + remembered bytes of the prompt / bandwidth between two replicas, one"
                " after the other of each replica that sends",
                "the fabric between the cards; bytes a token of the cache",
            )
        )
    return tuple(found)
