"""What must be asked for a scrape: asked once for all scrapes that come meanwhile or shortly after."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import NamedTuple

from ods.observability.logs import fault_name
from ods.observability.metrics.catalog import SCRAPE_ERRORS, Figure

_FRESH_SECONDS = 5.0
"""How long an answer is shown again: less than between two scrapes of one Prometheus, usually 15 seconds."""
_SHARE = 20
"""An answer is also shown again for so many times as long as it took: at most a twentieth of the time is
spent on asking."""
_WAIT_SECONDS = 1.0
"""How long a scrape waits for answers; until then the last ones are shown."""

_logger = logging.getLogger(__name__)


class Sample(NamedTuple):
    """One value of a figure."""

    figure: Figure
    labels: tuple[str, ...]
    value: float


Samples = Sequence[Sample]


@dataclass(frozen=True)
class Question:
    """Something to ask for a scrape.

    Attributes:
        source: what is asked, as `ods_scrape_errors_total` calls it.
        ask: asks; whatever it raises means that there is no answer.
        limit: seconds after which it is given up.
    """

    source: str
    ask: Callable[[], Awaitable[Samples]]
    limit: float = 3.0


class Figures:
    """Answers to questions. A question that gets no answer has no samples, and is counted.

    Args:
        questions: are asked independently of each other.
    """

    def __init__(self, questions: Iterable[Question]) -> None:
        self._asked = [_Asked(question) for question in questions]
        for one in self._asked:
            SCRAPE_ERRORS.labels(one.question.source)  # so that it is there, at 0

    async def samples(self) -> list[Sample]:
        """The samples of every question, after one second at most."""
        if running := [task for one in self._asked if (task := one.renewed()) is not None]:
            await asyncio.wait(running, timeout=_WAIT_SECONDS)
        return [sample for one in self._asked for sample in one.samples]

    async def close(self) -> None:
        """End what is still being asked."""
        running = [one.task for one in self._asked if one.task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class _Asked:
    """A question, and the answer that it got last."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.samples: Samples = ()
        self.task: asyncio.Task[None] | None = None
        self._fresh_until = 0.0
        self._failed = False

    def renewed(self) -> asyncio.Task[None] | None:
        """The task that asks, if there is one now; None if the last answer is fresh."""
        if self.task is None and monotonic() >= self._fresh_until:
            self.task = asyncio.create_task(self._ask())
        return self.task

    async def _ask(self) -> None:
        started = monotonic()
        try:
            async with asyncio.timeout(self.question.limit):
                self.samples = await self.question.ask()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with what is asked: it has no answer
            self.samples = ()
            SCRAPE_ERRORS.labels(self.question.source).inc()
            if not self._failed:  # an outage is logged once
                _logger.warning("%s: no answer for a scrape: %s", self.question.source, fault_name(error))
            self._failed = True
        else:
            self._failed = False
        finally:
            now = monotonic()
            self._fresh_until = now + max(_FRESH_SECONDS, _SHARE * (now - started))
            self.task = None
