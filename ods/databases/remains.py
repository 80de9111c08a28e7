"""What is left of an instance whose own database is lost: it may be all that there is of its data."""

from datetime import UTC, datetime

import asyncpg

from ods.databases.errors import DisagreementError
from ods.databases.lookup import DatabaseRows, find
from ods.databases.ownership import Owner, trashed_at
from ods.model.revisions import Role

_LONG_AGO = datetime.min.replace(tzinfo=UTC)
"""Instead of a time that a comment lacks."""
_IS_LEFT = "The instance's database {}, but what it had before a reset is there, as '{}'."


def version_in(found: DatabaseRows, owner: Owner) -> str | None:
    """The name of what the instance had before its last reset, which is retained; None if there is nothing.

    Times in the comments say which is the last: a restored registry gives numbers of jobs again.
    """
    its = {
        name: (trashed_at(row.comment) or _LONG_AGO, row.marked.number)
        for name, row in found.items()
        if row.role is Role.RETAINED and not row.is_invalid and row.marked and row.is_of(owner)
    }
    return max(its, key=its.__getitem__, default=None)


def what_is_left(found: DatabaseRows, owner: Owner) -> str | None:
    """In words, what else may have the data of an instance that has lost its own database; None: nothing."""
    version = version_in(found, owner)
    if owner.staging_name in found:
        words = f"what was to become it, before it was published, is there as '{owner.staging_name}'"
    elif version is not None:
        words = f"what the instance had before a reset is there, as '{version}'"
    else:
        return None
    return f"{words}. `ods drift` tells how that comes back. A purge of the instance would drop it as well."


def require_no_staging(found: DatabaseRows, owner: Owner) -> None:
    """Refuse a delete that keeps nothing while the instance's unpublished database is there."""
    if (staging := owner.staging_name) in found:
        raise DisagreementError(
            staging,
            f"The instance's database does not exist, but what was to become it is there, as '{staging}': the"
            " server was put back to before that was published. Nothing was done. `ods drift` tells how it"
            " comes back; or drop it as well: DELETE with ?purge=true, or `ods instance purge ID --live`.",
        )


def require_no_version(found: DatabaseRows, owner: Owner, half_dropped: str | None = None) -> None:
    """Refuse a delete that keeps nothing while there is what the instance had before a reset.

    Args:
        half_dropped: its own database, if a DROP has begun to remove that; None: there is none.
    """
    if (name := version_in(found, owner)) is not None:
        state, drop = "does not exist", ""
        if half_dropped is not None:
            state, drop = f"'{half_dropped}' is half dropped", f'DROP DATABASE "{half_dropped}" by hand, '
        raise DisagreementError(
            name,
            f"{_IS_LEFT.format(state, name)} Nothing was done. To keep that, {drop}give it back to"
            f" the instance (`ods recover --choose {name}`), then request the delete again; or drop all that"
            " is left: DELETE with ?purge=true, or `ods instance purge ID --live`.",
        )


async def require_no_version_in_trash(session: asyncpg.Connection, owner: Owner) -> None:
    """Refuse a purge with a backup of a lost database while there is what the instance had before a reset."""
    if (name := version_in(await find(session, owner), owner)) is not None:
        raise DisagreementError(
            name,
            f"{_IS_LEFT.format('does not exist', name)} No backup can be made of it, and nothing was dropped."
            " `ods drift` tells how it comes back; or, unless ODS_FINAL_BACKUP is true, drop it as well:"
            " purge the instance without a backup.",
        )
