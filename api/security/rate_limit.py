"""A rate limit for each key (GCRA), counted in this process, in memory that does not grow."""

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

_REMEMBERED = 10_000


class RateLimiter:
    """Admits each key a number of times at once, and from then on as often as it regains one.

    It remembers one number per key, the time at which the key will have regained everything. Of too many
    keys it forgets those that were longest silent.

    Args:
        burst: how often at once.
        interval: seconds in which one more is regained.
        clock: seconds, from any start.
    """

    def __init__(self, burst: int, interval: float, clock: Callable[[], float] = monotonic) -> None:
        self._tolerance = burst * interval
        self._interval = interval
        self._clock = clock
        self._regained: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._regained)

    def wait(self, key: str) -> float:
        """Seconds until `key` is admitted; 0 if it is now, and that counts."""
        now = self._clock()
        if wait := self._wait(key, now):
            self._regained.move_to_end(key)
            return wait
        self._regained[key] = self._next(key, now)
        self._regained.move_to_end(key)
        if len(self._regained) > _REMEMBERED:
            self._regained.popitem(last=False)
        return 0

    def peek(self, key: str) -> float:
        """Seconds until `key` is admitted; 0 if it is now, which does not count."""
        return self._wait(key, self._clock())

    def forget(self, key: str) -> None:
        """Let `key` begin anew."""
        self._regained.pop(key, None)

    def _wait(self, key: str, now: float) -> float:
        return max(0, self._next(key, now) - now - self._tolerance)

    def _next(self, key: str, now: float) -> float:
        """When `key` will have regained everything if it is admitted once more."""
        return max(self._regained.get(key, now), now) + self._interval
