"""How a database shows that it is ours.

A published database carries a comment that names its instance and the instance's random mark. Until then it
has a private name made of the mark. A database with neither is somebody else's: it is never dropped, renamed
or written to.
"""

import json
import uuid
from dataclasses import dataclass
from typing import Self

STAGING_PREFIX = "ods_staging_"


@dataclass(frozen=True)
class Owner:
    """The instance and job a database is made for; `mark` is the instance's UUID."""

    tenant: str
    ods_instance_id: int
    job_id: str
    mark: str

    @property
    def staging_name(self) -> str:
        """Private name of the instance's database before it is published."""
        return f"{STAGING_PREFIX}{uuid.UUID(self.mark).hex}"

    @property
    def comment(self) -> str:
        """The comment that a published database carries."""
        return json.dumps(
            {
                "tenant": self.tenant,
                "odsInstanceId": self.ods_instance_id,
                "job": self.job_id,
                "mark": self.mark,
            }
        )

    def owns(self, comment: str | None) -> bool:
        """Whether `comment` was written for this owner's instance, by whichever of its jobs."""
        other = self.read(comment)
        return other is not None and other.mark == self.mark

    @classmethod
    def read(cls, comment: str | None) -> Self | None:
        """The owner that `comment` names; None if it is not one of ours."""
        try:
            fields = json.loads(comment or "")
            return cls(fields["tenant"], fields["odsInstanceId"], fields["job"], fields["mark"])
        except (ValueError, TypeError, KeyError, RecursionError):  # as deep as a comment may be
            return None
