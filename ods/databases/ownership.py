"""The comment on a database that says which instance it belongs to.

A published database carries a comment that names its instance, the instance's mark, the database itself and
its revision (UUIDs that are never given again), and the installation that manages it. Until it is published,
a database has a private name made of a mark. A database with neither the comment nor such a name is not ours:
it is never dropped, renamed or written to.
"""

import json
import uuid
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from pydantic.alias_generators import to_camel

from ods.databases.constants import STAGING_PREFIX, UNREADABLE, private_prefix
from ods.databases.templates.marks import HIGHEST_GENERATION
from ods.model.revisions import KnownRevisions, RevisionState, Role, revision_by

_PUBLISHED_AT = "publishedAt"
_OPENED_BY = "openedBy"
_TRASHED_AT = "trashedAt"
_PROTECTED = "protected"
_PUT_BACK = "putBack"
_LEFT = "left"
_HIGHEST_ID = 2**31 - 1
"""Of an OdsInstanceId, by the type of its column."""
_LONGEST_NAME = 100
"""What the registry holds of the name of an instance, or of a template."""
_FORGOTTEN_ATTEMPTS = 10
"""A registry that was restored while a job ran has forgotten at most so many attempts at it."""


def _time(value: object) -> datetime:
    if (at := _as_time(value)) is None:
        raise ValueError(value)
    return at


def _as_time(value: Any) -> datetime | None:  # noqa: ANN401 - of JSON
    with suppress(ValueError, TypeError):
        at = datetime.fromisoformat(value)
        return at if at.tzinfo else None
    return None


_Uuid = Annotated[str, AfterValidator(lambda text: str(uuid.UUID(text)))]
_Time = Annotated[datetime, PlainValidator(_time)]


class _Comment(BaseModel):
    """What a comment of ours says, named as in `Owner`; what no registry could have was written by hand."""

    model_config = ConfigDict(strict=True, alias_generator=to_camel)

    version: int = Field(ge=1, le=1)
    """A comment of another version is none of ours: it may mean something else."""
    installation: _Uuid
    tenant: str
    ods_instance_id: int = Field(ge=0, le=_HIGHEST_ID)
    mark: _Uuid
    database_id: _Uuid = Field(alias="database")
    revision: _Uuid | None
    role: str
    name: str = Field(alias="instance", max_length=_LONGEST_NAME)
    template: str = Field(max_length=_LONGEST_NAME)
    job_id: str = Field(alias="job")
    number: int = Field(ge=0, le=999_999_999)
    template_generation: int | None = Field(ge=0, le=HIGHEST_GENERATION)
    published_at: _Time
    trashed_at: _Time | None = None
    trashed_name: str | None = Field(None, alias="name")
    put_back: Literal[True] | None = None
    is_protected: Literal[True] | None = Field(None, alias="protected")
    left: Mapping[str, _Time | None] = {}


@dataclass(frozen=True)
class LeftName:
    """A name that a database had until it was renamed."""

    name: str
    since: datetime | None = None
    """Since when the registry is known to have the new name, by the server's clock.

    None: that is not known, and the ODS/API may be led to the former name.
    """


@dataclass(frozen=True)
class Owner:
    """The instance a database belongs to, and the revision that the database has, or gets.

    Attributes:
        ods_instance_id: the instance's OdsInstanceId; a restored registry may give it again.
        job_id: the job that published the database, or works on it now.
        mark: the instance's UUID.
        database_id: the UUID of the database, one of those that the instance has or had.
        name: the instance's name once the database has this revision; empty if no comment is made of this.
        template: the template that the database is made of, likewise.
        template_generation: which generation of its template the database is a copy of; None: not known.
        trashed_name: of a database in the trash, the name that it had before; None of any other.
        revision: the UUID of the database's state, see `ods.model.revisions`; None while it is being made,
            and of an instance alone.
        put_back: of a database in the trash, whether a failed undelete has published it before. If the
            registry has forgotten that, the database may have been in use since.
        is_protected: whether the instance is protected.
        left: the names that renames of the instance have taken from its database.
    """

    tenant: str
    ods_instance_id: int
    job_id: str
    mark: str
    installation: str
    database_id: str = field(kw_only=True)
    number: int = 0
    name: str = ""
    template: str = ""
    template_generation: int | None = None
    trashed_name: str | None = None
    revision: str | None = None
    put_back: bool = False
    is_protected: bool = False
    left: tuple[LeftName, ...] = ()

    @property
    def staging_name(self) -> str:
        """The private name of the instance's database until it is published."""
        return f"{private_prefix(STAGING_PREFIX, self.installation)}{uuid.UUID(self.mark).hex}"

    @property
    def role(self) -> Role:
        """What the database is to its instance."""
        if self.trashed_name is not None:
            return Role.RETAINED
        return Role.STAGING if self.revision is None else Role.CURRENT

    def is_unknown_to(self, known: "KnownOwner") -> bool:
        """Whether the registry knows nothing of this revision: then it was restored to an earlier state."""
        return known.state_of(self) is None

    def agrees_with(self, known: "KnownOwner") -> bool:
        """Whether the registry intends or has confirmed this revision: only then it may be dropped."""
        return known.state_of(self) not in {None, RevisionState.VOID}

    @property
    def comment(self) -> str:
        """The comment of its database, with the time of this machine."""
        return self.comment_at(datetime.now(UTC))

    def comment_at(self, time: datetime) -> str:
        """The comment of its database, which is published or put into the trash.

        Args:
            time: when that is; by the clock of the server, with which times in the trash are compared.

        Raises:
            ValueError: it is put into the trash, and has no revision.
        """
        if self.trashed_name is not None and self.revision is None:
            raise ValueError("a database in the trash has a revision")
        now = time.isoformat(timespec="seconds")
        in_trash = {_TRASHED_AT: now, "name": self.trashed_name} if self.trashed_name else {}
        put_back = {_PUT_BACK: True} if self.put_back else {}
        protected = {_PROTECTED: True} if self.is_protected else {}
        return json.dumps(
            {
                "version": 1,
                "installation": self.installation,
                "tenant": self.tenant,
                "odsInstanceId": self.ods_instance_id,
                "mark": self.mark,
                "database": self.database_id,
                "revision": self.revision,
                "role": self.role,
                "instance": self.name,
                "template": self.template,
                "job": self.job_id,
                "number": self.number,
                "templateGeneration": self.template_generation,
                _PUBLISHED_AT: now,
                **in_trash,
                **put_back,
                **protected,
                **_left_fields(self.left),
            }
        )

    def owns(self, comment: str | None) -> bool:
        """Whether `comment` was written, by any job, for this very database of the instance.

        Not if it names another installation: a copy of a registry has the marks of the original.
        """
        other = Owner.read(comment)
        return other is not None and self.shares_instance(other) and other.database_id == self.database_id

    def shares_instance(self, other: "Owner") -> bool:
        """Whether the other database is one of the same instance."""
        return (other.mark, other.installation) == (self.mark, self.installation)

    def knowing(
        self, known: KnownRevisions, request: str | None = None, attempt: int = 0, *, is_running: bool = False
    ) -> "KnownOwner":
        """This instance, with what the registry knows of its databases; see `KnownOwner`."""
        values = {one.name: getattr(self, one.name) for one in fields(Owner)}
        owner = KnownOwner(**values, known=known, request=request, attempt=attempt, is_running=is_running)
        owner = replace(owner, is_protected=self.is_protected or known.is_protected)
        return owner.of_database(self.database_id)

    @staticmethod
    def read(comment: str | None) -> "Owner | None":
        """The owner that `comment` names; None if it is not one of ours, as this release writes them."""
        try:
            its = _Comment.model_validate_json(comment or "")
        except ValidationError:
            return None
        is_trashed = its.trashed_at is not None
        if is_trashed and None in {its.trashed_name, its.revision}:
            return None
        values = {one.name: getattr(its, one.name) for one in fields(Owner)} | {
            "trashed_name": its.trashed_name if is_trashed else None,
            "put_back": bool(its.put_back),
            "is_protected": bool(its.is_protected),
            "left": tuple(LeftName(name, since) for name, since in its.left.items()),
        }
        owner = Owner(**values)
        return owner if its.role == owner.role else None


@dataclass(frozen=True)
class KnownOwner(Owner):
    """An instance, with what its registry knows of its databases; read behind the fence before each step.

    Attributes:
        request: the request whose job works on the databases; None if none does.
        is_running: whether the job still runs; if not, what it has done is being undone.
    """

    known: KnownRevisions = field(kw_only=True, compare=False)
    request: str | None = field(kw_only=True, compare=False)
    attempt: int = field(kw_only=True, compare=False)
    is_running: bool = field(kw_only=True, compare=False)

    def of_database(self, database_id: str) -> "KnownOwner":
        """The same for that database, with the revision that the job gives it."""
        revision = None if self.request is None else revision_by(self.request, self.attempt, database_id)
        return replace(self, database_id=database_id, revision=revision)

    def as_confirmed(self) -> "KnownOwner":
        """The same with the confirmed revision of the database: its job is undone."""
        return replace(self, revision=self.known.confirmed(self.database_id))

    def state_of(self, marked: Owner) -> RevisionState | None:
        """What the registry knows of the revision in a comment; None: nothing.

        While a job runs, a restored registry may have forgotten the attempt at it that gave the revision.
        """
        state = self.known.state_of(marked.database_id, marked.revision)
        if state is None and self.request is not None:
            attempts = range(1, self.attempt + _FORGOTTEN_ATTEMPTS + 1) if self.is_running else ()
            given = {revision_by(self.request, one, marked.database_id) for one in attempts}
            return RevisionState.INTENDED if marked.revision in given else None
        return state


def opened_by(comment: str | None) -> str | None:
    """The job that has opened a database in the trash to back it up; None if none has."""
    job = _fields(comment).get(_OPENED_BY)
    return job if isinstance(job, str) else None


def with_opening(comment: str | None, job_id: str | None) -> str:
    """The comment of a database in the trash that the job opens; None: that is closed again."""
    fields = {name: value for name, value in _fields(comment).items() if name != _OPENED_BY}
    return json.dumps(fields | ({_OPENED_BY: job_id} if job_id else {}))


def with_left(comment: str | None, left: Collection[LeftName]) -> str:
    """The comment with these names that the database has left, otherwise unchanged."""
    fields = {name: value for name, value in _fields(comment).items() if name != _LEFT}
    return json.dumps(fields | _left_fields(left))


def with_revision(comment: str | None, revision: str, *, is_protected: bool) -> str:
    """The comment with this revision of the database, and whether its instance is protected."""
    fields = {name: value for name, value in _fields(comment).items() if name != _PROTECTED}
    return json.dumps({**fields, "revision": revision} | ({_PROTECTED: True} if is_protected else {}))


def published_at(comment: str | None) -> datetime | None:
    """When the database with this comment was published; None if the comment does not say."""
    return _as_time(_fields(comment).get(_PUBLISHED_AT))


def trashed_at(comment: str | None) -> datetime | None:
    """When the database with this comment was put into the trash; None if the comment does not say."""
    return _as_time(_fields(comment).get(_TRASHED_AT))


def _left_fields(left: Collection[LeftName]) -> dict[str, object]:
    names = {one.name: None if one.since is None else one.since.isoformat() for one in left}
    return {_LEFT: names} if names else {}


def _fields(comment: str | None) -> Mapping[str, Any]:
    with suppress(*UNREADABLE):
        fields = json.loads(comment or "")
        if isinstance(fields, dict):
            return fields
    return {}
