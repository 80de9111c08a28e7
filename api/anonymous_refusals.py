"""Refusals of unauthenticated requests, and of clients that get many: counted, lest they fill the trail."""

from dataclasses import replace
from typing import TypeAlias

from api.http.addresses import subscriber
from ods.registry.audit import AuditEntry

_Sender: TypeAlias = tuple[str | None, str]
"""The client, None if there is none, and its network."""

_MOST_SENDERS = 10
_OTHERS: _Sender = (None, "other addresses")


class AnonymousRefusals:
    """Lets the first refusal of a network pass and counts those that follow, in memory that does not grow.

    Each client of a network is counted by itself, and so are requests of none. Of more than ten at a time,
    the others are counted together.
    """

    def __init__(self) -> None:
        self._known: set[_Sender] = set()
        self._counted: dict[_Sender, AuditEntry] = {}

    def admit(self, entry: AuditEntry) -> AuditEntry | None:
        """`entry` if it is to be written now; None if it was counted."""
        sender = (entry.client, subscriber(entry.address))
        if sender not in self._known:
            if len(self._known) < _MOST_SENDERS:
                self._known.add(sender)
                return entry
            sender = _OTHERS
        before = self._counted.get(sender)
        omitted = 0 if before is None else before.omitted + 1
        client, network = sender
        self._counted[sender] = replace(entry, client=client, address=network, omitted=omitted)
        return None

    def take(self) -> list[AuditEntry]:
        """What was counted since the last call: each sender's last refusal, and how many were before it.

        A sender of whom nothing was counted is forgotten: the next refusal passes again.
        """
        counted, self._counted = self._counted, {}
        self._known = counted.keys() - {_OTHERS}
        return list(counted.values())
