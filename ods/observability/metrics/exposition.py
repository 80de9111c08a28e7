"""What a scrape gets: everything that this process tells, as text."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ods.observability.metrics.catalog import INSTRUMENTS, Figure
from ods.observability.metrics.figures import Figures, Sample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Exposition:
    """The text of all metrics of this process.

    Args:
        figures: what must be asked for.
        own: samples that this process knows without asking.
        sdk: the text that the SDK of Temporal has for its own metrics; empty if it does not tell.
    """

    def __init__(
        self,
        figures: Figures,
        own: Callable[[], Iterable[Sample]],
        sdk: Callable[[], Awaitable[bytes]],
    ) -> None:
        self._figures = figures
        self._own = own
        self._sdk = sdk

    async def text(self) -> bytes:
        """The metrics as they are now, in Prometheus' text format."""
        samples, sdk = await asyncio.gather(self._figures.samples(), self._sdk())
        # In a thread: with a hundred tenants it takes longer than a request may wait.
        return await asyncio.to_thread(_rendered, [*samples, *self._own()]) + sdk


def _rendered(samples: Iterable[Sample]) -> bytes:
    read = CollectorRegistry()
    read.register(_Read(samples))
    return generate_latest(INSTRUMENTS) + generate_latest(read)


class _Read(Collector):
    """Samples of figures as prometheus-client takes them."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterable[Metric]:
        families: dict[Figure, GaugeMetricFamily] = {}
        for figure, labels, value in self._samples:
            family = families.get(figure)
            if family is None:
                family = GaugeMetricFamily(figure.name, figure.help, labels=figure.labels)
                families[figure] = family
            family.add_metric(labels, value)
        return families.values()
