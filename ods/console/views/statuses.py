"""What a status looks like: a symbol, the API's word for it, a colour, and what it means."""

from dataclasses import dataclass
from typing import assert_never

from api.schemas.instances import Instance
from ods.console.texts import t
from ods.model.operations import InstanceStatus, JobStatus, Operation, is_usable
from ods.registry.storage.models import DbInstance

GOOD, BUSY, BAD, GONE = ("good", "●"), ("busy", "◐"), ("bad", "▲"), ("gone", "○")
"""Of each tone, its name in the stylesheet, and its symbol."""


@dataclass(frozen=True)
class Badge:
    """A status as it is shown.

    Attributes:
        word: the status, in the API's word.
        tone: which colour it has, a name that the stylesheet knows.
        symbol: tells the status as well as the colour does.
        meaning: what it means, in words.
    """

    word: str
    tone: str
    symbol: str
    meaning: str = ""


def instance_badge(row: DbInstance) -> Badge:
    """The status of an instance."""
    status = InstanceStatus(row.status)
    tone, symbol = _of_instance(status)
    return Badge(status, tone, symbol, _meaning(row, status, Operation(row.operation)))


def job_badge(status: str) -> Badge:
    """The status of a job; one that another product has written may be any word."""
    if status not in list(JobStatus):
        return Badge(status, *GONE)
    known = JobStatus(status)
    match known:
        case JobStatus.PENDING | JobStatus.IN_PROGRESS:
            appearance = BUSY
        case JobStatus.COMPLETED:
            appearance = GOOD
        case JobStatus.ERROR:
            appearance = BAD
        case _:
            assert_never(known)
    return Badge(status, *appearance)


def is_under_way(instance: Instance) -> bool:
    """Whether a job of the instance waits or runs."""
    return instance.progress is not None


def _of_instance(status: InstanceStatus) -> tuple[str, str]:
    match status:
        case InstanceStatus.COMPLETED:
            return GOOD
        case InstanceStatus.PENDING | InstanceStatus.IN_PROGRESS | InstanceStatus.PENDING_DELETE:
            return BUSY
        case InstanceStatus.ERROR | InstanceStatus.DELETE_FAILED:
            return BAD
        case InstanceStatus.DELETED:
            return GONE
        case _:
            assert_never(status)


def _meaning(row: DbInstance, status: InstanceStatus, operation: Operation) -> str:
    word = row.word
    match status:
        case InstanceStatus.COMPLETED:
            return t("meaning.available")
        case InstanceStatus.PENDING | InstanceStatus.PENDING_DELETE:
            return t("meaning.waits")
        case InstanceStatus.IN_PROGRESS:
            return t(f"meaning.in_progress.{word}", new_name=row.new_name or row.name)
        case InstanceStatus.ERROR:
            return t("meaning.still_works" if is_usable(status, operation) else f"meaning.failed.{word}")
        case InstanceStatus.DELETE_FAILED:
            return t(f"meaning.failed.{word}")
        case InstanceStatus.DELETED:
            return _meaning_of_deleted(row)
        case _:
            assert_never(status)


def _meaning_of_deleted(row: DbInstance) -> str:
    # What an Admin API had deleted may have had a database: its delete is its first job.
    if not row.is_published and row.job_number > 1:
        return t("meaning.never_created")
    return t("meaning.in_trash" if row.is_in_trash else "meaning.gone")
