"""The mark of a snapshot: the comment that says of which instance it is a copy.

It is of a kind of its own: to everything that looks for the database of an instance, a snapshot is none.
"""

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

_KIND = "snapshot"


@dataclass(frozen=True)
class SnapshotMark:
    """What the comment of a snapshot says.

    Attributes:
        tenant: the tenant of its instance.
        ods_instance_id: the OdsInstanceId of its instance.
        instance: the mark of its instance.
        mark: its own.
        installation: the installation that it belongs to; None if that is not known.
    """

    tenant: str
    ods_instance_id: int
    instance: str
    mark: str
    installation: str | None = None

    @property
    def comment(self) -> str:
        """The comment that a snapshot is published with."""
        return json.dumps(
            {
                "kind": _KIND,
                "installation": self.installation,
                "tenant": self.tenant,
                "odsInstanceId": self.ods_instance_id,
                "instance": self.instance,
                "snapshot": self.mark,
                "publishedAt": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )

    def owns(self, comment: str | None) -> bool:
        """Whether `comment` is that of this very snapshot.

        Not if it names another installation: a copy of a registry has the marks of the original.
        """
        other = self.read(comment)
        if other is None or (other.mark, other.instance) != (self.mark, self.instance):
            return False
        return None in (other.installation, self.installation) or other.installation == self.installation

    @classmethod
    def read(cls, comment: str | None) -> Self | None:
        """What `comment` says; None if it is not that of a snapshot."""
        try:
            fields: Any = json.loads(comment or "")
            if fields["kind"] != _KIND:
                return None
            return cls(
                tenant=str(fields["tenant"]),
                ods_instance_id=int(fields["odsInstanceId"]),
                instance=str(uuid.UUID(fields["instance"])),
                mark=str(uuid.UUID(fields["snapshot"])),
                installation=None if fields["installation"] is None else str(fields["installation"]),
            )
        # The last: a comment may be as deep as it likes.
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return None
