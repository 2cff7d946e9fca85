"""News that is kept back, as its front wants to hear of several tokens at a time. Torch-free.

Telling costs the front some work for each message, on processors that the engine may need.
"""

from collections.abc import Iterable

from msgspec.structs import replace

from pieria.engine.messages import Add, Output


class Untold:
    """What was computed of requests and not told yet; only those with a `stream_interval`."""

    def __init__(self) -> None:
        self._intervals: dict[str, int] = {}
        # News that goes out together; empty before the first token, which is told at once.
        self._kept: dict[str, list[Output]] = {}

    def add(self, add: Add) -> None:
        """A request that begins."""
        if add.stream_interval > 1:
            self._intervals[add.id] = add.stream_interval

    def forget(self, ids: Iterable[str]) -> None:
        """Requests that are aborted."""
        for id in ids:
            self._intervals.pop(id, None)
            self._kept.pop(id, None)

    def due(self, outputs: list[Output]) -> list[Output]:
        """What is to be told now, after a step with these news."""
        if not self._intervals:
            return outputs
        return [told for output in outputs if (told := self._told(output)) is not None]

    def _told(self, output: Output) -> Output | None:
        interval = self._intervals.get(output.id)
        if interval is None:
            return output
        kept = self._kept.get(output.id)
        if output.finish_reason is not None:
            self.forget((output.id,))
        elif kept is None:
            if output.tokens:
                self._kept[output.id] = []
            return output
        elif len(kept) + 1 < interval:
            kept.append(output)
            return None
        else:
            self._kept[output.id] = []
        return _joined([*(kept or ()), output])


def _joined(outputs: list[Output]) -> Output:
    """One news of a request after another as one; they are not its first."""
    return replace(
        outputs[-1],
        tokens=tuple(token for o in outputs for token in o.tokens),
        logprobs=tuple(report for o in outputs for report in o.logprobs),
        prompt_logprobs=tuple(report for o in outputs for report in o.prompt_logprobs),
    )
