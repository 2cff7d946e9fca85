"""What each key has used, and whether it may have more now.

Knows keys, counts and time. Does not know requests or routes.
"""

from collections.abc import Iterable
from hashlib import sha256

from pieria.clock import Clock
from pieria.server.errors import rate_limited
from pieria.server.keys import Key, Keys

ANONYMOUS = "anonymous"
"""The name of all who come without a key, where none is needed."""


class _Bucket:
    """So many per minute, all of them at once at first. level: what is left; it may be a debt."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self._most = per_minute
        self._clock = clock
        self._filled = clock.now()
        self.level = float(per_minute)

    def wait_seconds(self, wanted: float) -> float:
        """How long until so many are there; 0 now."""
        now = self._clock.now()
        rate = self._most / 60
        self.level = min(self._most, self.level + (now - self._filled) * rate)
        self._filled = now
        return max(0.0, (wanted - self.level) / rate)


class Account:
    """One key's use since the server started. key: None for all who have none.

    salt: keeps prefixes of this key's prompts apart from others' in the cache, so that nobody can
    time whether somebody else has sent a text. running: requests in work.
    """

    def __init__(self, key: Key | None, clock: Clock) -> None:
        self.key = key
        self.name = ANONYMOUS if key is None else key.name
        self.salt = "" if key is None else sha256(b"salt" + key.sha256.encode()).hexdigest()[:32]
        self.requests = self.prompt_tokens = self.cached_tokens = self.generated_tokens = 0
        self.refused = self.running = 0
        self._clock = clock
        self._set_limits()

    def change(self, key: Key) -> None:
        """The same secret, perhaps with other limits, which then begin anew."""
        if key != self.key:
            self.key, self.name = key, key.name
            self._set_limits()

    def begin(self) -> None:
        """One more request; `end` follows. ApiError 429 if it is one too many."""
        most = None if self.key is None else self.key.max_concurrent_requests
        if most is not None and self.running >= most:
            self.refused += 1
            raise rate_limited(f"this key may have {most} requests in work at once", 1)
        for bucket, wanted, what in (
            (self._requests_left, 1, "requests per minute"),
            # What an answer costs is known at its end: who is not in debt may ask.
            (self._tokens_left, 1e-9, "tokens per minute"),
        ):
            wait = 0.0 if bucket is None else bucket.wait_seconds(wanted)
            if wait > 0:
                self.refused += 1
                raise rate_limited(f"this key has used all of its {what}", wait)
        if self._requests_left is not None:
            self._requests_left.level -= 1
        self.requests += 1
        self.running += 1

    def end(self) -> None:
        self.running -= 1

    def take_prompt(self, tokens: int) -> None:
        self.prompt_tokens += tokens
        if self._tokens_left is not None:
            self._tokens_left.level -= tokens

    def take_cached(self, tokens: int) -> None:
        """Tokens of a prompt that were found in the cache; they count as the others."""
        self.cached_tokens += tokens

    def take_generated(self, tokens: int) -> None:
        self.generated_tokens += tokens
        if self._tokens_left is not None:
            self._tokens_left.level -= tokens

    def _set_limits(self) -> None:
        requests = tokens = None
        if self.key is not None:
            requests, tokens = self.key.requests_per_minute, self.key.tokens_per_minute
        self._requests_left = None if requests is None else _Bucket(requests, self._clock)
        self._tokens_left = None if tokens is None else _Bucket(tokens, self._clock)


class Accounts:
    """The accounts of all keys there were since the server started."""

    def __init__(self, keys: Keys, clock: Clock) -> None:
        self._clock = clock
        self._by_digest: dict[str, Account] = {}
        self._anonymous = Account(None, clock)
        self.update(keys)

    def update(self, keys: Keys) -> None:
        """Take new keys and limits; what a key has used stays."""
        for key in keys.all:
            known = self._by_digest.get(key.sha256)
            if known is None:
                self._by_digest[key.sha256] = Account(key, self._clock)
            else:
                known.change(key)

    def of(self, key: Key | None) -> Account:
        return self._anonymous if key is None else self._by_digest[key.sha256]

    def all(self) -> Iterable[Account]:
        return [self._anonymous, *self._by_digest.values()]
