"""Refusals of unauthenticated requests: counted, so that they cannot fill the audit trail."""

from dataclasses import replace

from api.http.addresses import subscriber
from registry.audit import AuditEntry

_MOST_NETWORKS = 10
_OTHERS = "other addresses"


class AnonymousRefusals:
    """Lets the first refusal of a network pass and counts those that follow, in memory that does not grow.

    Of more than ten networks at a time, what comes from the others is counted together.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._counted: dict[str, AuditEntry] = {}

    def admit(self, entry: AuditEntry) -> AuditEntry | None:
        """`entry` if it is to be written now; None if it was counted."""
        network = subscriber(entry.address)
        if network not in self._known:
            if len(self._known) < _MOST_NETWORKS:
                self._known.add(network)
                return entry
            network = _OTHERS
        before = self._counted.get(network)
        omitted = 0 if before is None else before.omitted + 1
        self._counted[network] = replace(entry, address=network, omitted=omitted)
        return None

    def take(self) -> list[AuditEntry]:
        """What was counted since the last call: each network's last refusal, and how many were before it.

        A network of which nothing was counted is forgotten: its next refusal passes again.
        """
        counted, self._counted = self._counted, {}
        self._known = counted.keys() - {_OTHERS}
        return list(counted.values())
