"""The mark: the comment on a database that says which instance it belongs to.

A published database carries a comment that names its instance, the instance's mark (a UUID that is never
given again), the installation that manages it, and the attempt at a job that published it last. Until it is
published, a database has a private name made of the mark. A database with neither the comment nor such a name
is not ours: it is never dropped, renamed or written to.
"""

import json
import re
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from ods.databases.constants import STAGING_PREFIX
from ods.databases.template_marks import generation_in

_VERSION = 2
_OPENED_BY = "openedBy"
_TRASHED_AT = "trashedAt"
_PUT_BACK = "putBack"
_LEFT = "left"
_HIGHEST_COUNT = 999_999_999
_JOB_NUMBER = re.compile(r"-(\d{1,9})\Z")


@dataclass(frozen=True)
class LeftName:
    """A name that a database had until it was renamed.

    Attributes:
        name: the name.
        since: when it was known that the registry has the new name, by the clock of the server; None: as long
            as that is not known, the ODS/API may be led to the name.
    """

    name: str
    since: datetime | None = None


@dataclass(frozen=True)
class Owner:
    """The instance a database belongs to, and the attempt at a job that works on it, or published it.

    Attributes:
        tenant: the instance's tenant.
        ods_instance_id: the instance's OdsInstanceId; a restored registry may give it again.
        job_id: the job that published the database, or works on it now.
        mark: the instance's UUID; it is never given again.
        number: counts the jobs of the instance; of a delete, it is that of the job before it.
        attempt: counts the times that the job has begun; 0 in comments of version 1, which do not say it.
        installation: the installation that manages the instance; None in comments of version 1.
        template_generation: which generation of its template the database is a copy of; None if that is not
            known.
        trashed_name: of a database in the trash, the name that it had before; None if it is not there.
        database_mark: the UUID of the database alone, which tells it from the others that the instance has
            had; None if it is the one that the instance was created with.
        request: the UUID of the request whose job published the database, or of the adoption; it is never
            given again, as numbers are. None if that was a create, or a job of an earlier release.
        put_back: of a database in the trash, whether an undelete that did not end has published it before: by
            a registry that has forgotten that end, it may have been in use since.
        left: the names that renames of the instance have taken from its database.
    """

    tenant: str
    ods_instance_id: int
    job_id: str
    mark: str
    number: int = 0
    attempt: int = 0
    installation: str | None = None
    template_generation: int | None = None
    trashed_name: str | None = None
    database_mark: str | None = None
    request: str | None = None
    put_back: bool = False
    left: tuple[LeftName, ...] = ()

    @property
    def staging_name(self) -> str:
        """Private name of the instance's database before it is published."""
        return f"{STAGING_PREFIX}{uuid.UUID(self.mark).hex}"

    @property
    def publication(self) -> tuple[int, int]:
        """Grows with every attempt at a job of the instance, as long as its registry is not restored."""
        return (self.number, self.attempt)

    def is_unknown_to(self, known: "KnownOwner") -> bool:
        """Whether the registry knows nothing of the publication that this comment tells.

        Then the registry was restored to an earlier state: it may be wrong about everything that cannot be
        undone. It gives numbers of jobs again, so that an earlier publication may be another job's as well.

        Args:
            known: the instance, and the publications that the registry knows.
        """
        return self.publication > known.publication or not self.has_request_among(known.requests)

    def has_request_among(self, requests: Collection[str]) -> bool:
        """Whether one of these requests, or none that has a mark, has published the database."""
        return self.request in {None, *requests}

    @property
    def comment(self) -> str:
        """The comment that this owner's job writes on its database, with the time of this machine."""
        return self.comment_at(datetime.now(UTC))

    def comment_at(self, time: datetime) -> str:
        """The comment that this owner's job publishes its database with, or puts it into the trash.

        Args:
            time: when that is; by the clock of the server, with which the time in the trash is compared.
        """
        now = time.isoformat(timespec="seconds")
        own_mark = {"databaseMark": self.database_mark} if self.database_mark else {}
        request = {"request": self.request} if self.request else {}
        in_trash = {_TRASHED_AT: now, "name": self.trashed_name} if self.trashed_name else {}
        put_back = {_PUT_BACK: True} if self.put_back else {}
        return json.dumps(
            {
                "version": _VERSION,
                "installation": self.installation,
                "tenant": self.tenant,
                "odsInstanceId": self.ods_instance_id,
                "mark": self.mark,
                "job": self.job_id,
                "number": self.number,
                "attempt": self.attempt,
                "templateGeneration": self.template_generation,
                "publishedAt": now,
                **own_mark,
                **request,
                **in_trash,
                **put_back,
                **_left_fields(self.left),
            }
        )

    def owns(self, comment: str | None) -> bool:
        """Whether `comment` was written for this owner's instance and this very database of it, by any job.

        Not if it names another installation: a copy of a registry has the marks of the original.
        """
        other = Owner.read(comment)
        return other is not None and self.shares_instance(other) and other.database_mark == self.database_mark

    def shares_instance(self, other: "Owner") -> bool:
        """Whether the other database is one that the same instance has, had, or shall have."""
        return other.mark == self.mark and self._shares_installation(other)

    def _shares_installation(self, other: "Owner") -> bool:
        return None in (other.installation, self.installation) or other.installation == self.installation

    def knowing(self, requests: Collection[str]) -> "KnownOwner":
        """This instance, of which the registry knows these requests now, the latest last."""
        values = {one.name: getattr(self, one.name) for one in fields(Owner)}
        latest = next(reversed([*requests]), None)
        return KnownOwner(**{**values, "request": latest}, requests=tuple(requests))

    @staticmethod
    def read(comment: str | None) -> "Owner | None":
        """The owner that `comment` names; None if it is not one of ours."""
        fields = _fields(comment)
        try:
            job = fields["job"]
            return Owner(
                tenant=fields["tenant"],
                ods_instance_id=fields["odsInstanceId"],
                job_id=job,
                mark=str(uuid.UUID(str(fields["mark"]))),
                number=_count(fields.get("number", _number(job))),
                attempt=_count(fields.get("attempt", 0)),
                installation=_text(fields.get("installation")),
                template_generation=generation_in(fields.get("templateGeneration")),
                trashed_name=_text(fields.get("name")) if _TRASHED_AT in fields else None,
                database_mark=_uuid(fields, "databaseMark"),
                request=_uuid(fields, "request"),
                put_back=_PUT_BACK in fields,
                left=_left_names(fields.get(_LEFT)),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            return None


@dataclass(frozen=True)
class KnownOwner(Owner):
    """An instance with what the registry knows of it at one moment.

    Whatever decides whether a comment is known needs one: an `Owner` alone does not have the marks, and would
    refuse each database that was published by a request. Nothing keeps them: they are read from the
    instance's row, behind the fence wherever something is done to a database.

    Attributes:
        requests: the UUIDs of the requests that the registry knows of the instance.
    """

    requests: tuple[str, ...] = field(kw_only=True, compare=False)


def opened_by(comment: str | None) -> str | None:
    """The job that has opened this database, which is in the trash, to back it up; None if none has."""
    job = _fields(comment).get(_OPENED_BY)
    return job if isinstance(job, str) else None


def with_opening(comment: str, job_id: str | None) -> str:
    """The comment of a database in the trash that the job has opened; None: that is closed again."""
    fields = {name: value for name, value in _fields(comment).items() if name != _OPENED_BY}
    return json.dumps(fields | ({_OPENED_BY: job_id} if job_id else {}))


def with_left(comment: str, left: Collection[LeftName]) -> str:
    """The comment with these names that the database has left, and otherwise as it is."""
    fields = {name: value for name, value in _fields(comment).items() if name != _LEFT}
    return json.dumps(fields | _left_fields(left))


def published_at(comment: str | None) -> datetime | None:
    """When the database with this comment was published; None if the comment does not say."""
    return _time(comment, "publishedAt")


def trashed_at(comment: str | None) -> datetime | None:
    """When the database with this comment was put into the trash; None if the comment does not say."""
    return _time(comment, _TRASHED_AT)


def _count(value: Any) -> int:  # noqa: ANN401 - of JSON
    """A number of a job, or of attempts at it.

    Raises:
        ValueError: no instance comes to that: it was written by hand, and the registry cannot have it.
    """
    number = int(value)
    if not 0 <= number <= _HIGHEST_COUNT:
        raise ValueError(value)
    return number


def _time(comment: str | None, field: str) -> datetime | None:
    return _as_time(_fields(comment).get(field))


def _as_time(value: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return at if at is not None and at.tzinfo else None


def _left_fields(left: Collection[LeftName]) -> dict[str, object]:
    names = {one.name: None if one.since is None else one.since.isoformat() for one in left}
    return {_LEFT: names} if names else {}


def _left_names(value: object) -> tuple[LeftName, ...]:
    if not isinstance(value, dict):
        return ()
    return tuple(LeftName(name, _as_time(since)) for name, since in value.items())


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError


def _uuid(fields: Mapping[str, Any], field_name: str) -> str | None:
    """The UUID of this field, if the comment has one."""
    return str(uuid.UUID(str(fields[field_name]))) if field_name in fields else None


def _number(job: str) -> int:
    """The number of a job, from its id (`CreateInstanceJob-42-1`): comments of version 1 do not say it."""
    found = _JOB_NUMBER.search(job)
    return int(found[1]) if found else 0


def _fields(comment: str | None) -> Mapping[str, Any]:
    try:
        fields = json.loads(comment or "")
    except (ValueError, RecursionError):  # as deep as a comment may be
        return {}
    return fields if isinstance(fields, dict) else {}
