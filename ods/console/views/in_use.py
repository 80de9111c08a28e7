"""Who uses the database of an instance, as pages tell it before its data goes."""

from dataclasses import dataclass

from ods.registry.storage.models import DbInstance
from ods.tenants.usage import InstanceFigures


@dataclass(frozen=True)
class InUse:
    """An instance, and how its database is used.

    Attributes:
        row: the instance.
        usage: how its database is used; a text says why that is not known.
    """

    row: DbInstance
    usage: InstanceFigures | str

    @property
    def size_bytes(self) -> int | None:
        """The size of its database; None if that is not known."""
        return None if isinstance(self.usage, str) else self.usage.database.size_bytes

    @property
    def sessions(self) -> int | None:
        """How many sessions are open on its database; None if that is not known."""
        if isinstance(self.usage, str):
            return None
        return sum(session.count for session in self.usage.database.sessions)

    @property
    def applications(self) -> int | None:
        """How many applications of the ODS/API may use it; None if that is not known."""
        if isinstance(self.usage, str) or self.usage.application_ids is None:
            return None
        return len(self.usage.application_ids)
