"""A rate limit for each key (GCRA), counted in this process, in memory that does not grow."""

from collections.abc import Callable
from time import monotonic

_REMEMBERED = 10_000
_OTHERS = ""
"""The keys that are too many to be remembered one by one are counted together, as this one."""
_LOOKS_APART_SECONDS = 1


class RateLimiter:
    """Admits each key a number of times at once, and from then on as often as it regains one.

    It remembers one number per key, the time at which the key will have regained everything, and forgets no
    key before that time: a sender with very many keys does not make the count of another one begin anew.
    Of more than 10,000 keys at a time, the newest are counted together.

    Args:
        burst: how often at once.
        interval: seconds in which one more is regained.
        clock: seconds, from any start.
    """

    def __init__(self, burst: int, interval: float, clock: Callable[[], float] = monotonic) -> None:
        self._tolerance = burst * interval
        self._interval = interval
        self._clock = clock
        self._regained: dict[str, float] = {}
        self._look_at = clock()

    def __len__(self) -> int:
        return len(self._regained)

    def wait(self, key: str) -> float:
        """Seconds until `key` is admitted; 0 if it is now, and that counts."""
        now = self._clock()
        key = self._counted_as(key, now)
        if wait := max(0, self._next(key, now) - now - self._tolerance):
            return wait
        self._regained[key] = self._next(key, now)
        return 0

    def _counted_as(self, key: str, now: float) -> str:
        if len(self._regained) < _REMEMBERED or key in self._regained:
            return key
        if now >= self._look_at:
            self._look_at = now + _LOOKS_APART_SECONDS
            self._regained = {one: at for one, at in self._regained.items() if at > now}
        return key if len(self._regained) < _REMEMBERED else _OTHERS

    def _next(self, key: str, now: float) -> float:
        """When `key` will have regained everything if it is admitted once more."""
        return max(self._regained.get(key, now), now) + self._interval
