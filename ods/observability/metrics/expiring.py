"""A gauge whose values count for some time only: what was found by a look that may not be repeated here."""

from collections.abc import Iterable, Mapping, Sequence
from time import monotonic

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class ExpiringGauge(Collector):
    """A gauge for what this process has found by a look, as long as that is not too old.

    Several processes share such work: one that looked an hour ago does not know what another has found since.
    The last label is the one that tells looks apart, the tenant.
    """

    def __init__(self, name: str, tells: str, labels: Sequence[str]) -> None:
        self._name = name
        self._tells = tells
        self._labels = labels
        self._found: dict[str, tuple[float, Mapping[str, int]]] = {}

    def replace(self, tenant: str, counts: Mapping[str, int], seconds: float) -> None:
        """Show a tenant's `counts`, by the first label, for so many seconds, instead of what it had."""
        self._found[tenant] = (monotonic() + seconds, counts)

    def collect(self) -> Iterable[Metric]:
        """The values that still count."""
        family = GaugeMetricFamily(self._name, self._tells, labels=self._labels)
        now = monotonic()
        for tenant, (until, counts) in list(self._found.items()):
            if now < until:
                for kind, count in counts.items():
                    family.add_metric([kind, tenant], count)
        yield family
