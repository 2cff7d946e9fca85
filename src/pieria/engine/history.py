"""The tokens that penalties look at, each counted once as a request goes on. Torch-free."""

from array import array
from collections.abc import Sequence


class History:
    """The distinct tokens of a request, and how often each occurs in its output.

    Those that came since the last time are counted when it is asked.
    """

    def __init__(self, tokens: Sequence[int], prompt_length: int, *, of_prompt: bool) -> None:
        """tokens: grows at its end. of_prompt: whether the prompt's tokens belong to it too."""
        self._tokens = tokens
        self._prompt_length = prompt_length
        self._counted = 0 if of_prompt else prompt_length
        self._places: dict[int, int] = {}
        self._seen = array("i")
        self._times = array("i")

    def counted(self) -> tuple[bytes, bytes]:
        """The tokens as they first occurred, and the times of each; native int32."""
        for at in range(self._counted, len(self._tokens)):
            token = self._tokens[at]
            place = self._places.setdefault(token, len(self._places))
            if place == len(self._seen):
                self._seen.append(token)
                self._times.append(0)
            self._times[place] += at >= self._prompt_length
        self._counted = len(self._tokens)
        return self._seen.tobytes(), self._times.tobytes()
