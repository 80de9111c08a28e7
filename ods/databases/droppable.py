"""Who may drop a database, and what proves that it is ours.

| database | is dropped by | if |
|---|---|---|
| the instance's, in use | `dropping.drop`, for a delete that a client has requested | `deletable` |
| one in the trash | `dropping.purge`, when that is due | `find_in_trash`, `require_not_put_back` |
| the same with a final backup | `trash_backup.purge_backed_up` | `find_backed_up` |
| never published | `dropping.drop_staging`, behind the fence | its private name has the instance's mark |
| made to replace the instance's | `replacing.discard_other` | `was_never_used` |
| the same, and forgotten by the registry | `replacing.drop_unknown` | `made_for_forgotten_resets` |
| a snapshot | `snapshots.remove` | its comment has its own mark |
| a spare, or left by a template's load | `templates.spare_pool`, `templates.reports` | as below |
| one to look at something | `scratch` | as below |

A database that was ever an instance's is dropped only if the registry knows the instance's mark, the database
and the very revision that its comment names, and has it under its name. `dropping.drop_found` closes it, in a
transaction that compares its OID and comment, and ends its sessions. Before each try at the DROP it asks the
registry again, and compares once more. What no instance has had is recognised by its private name, which has
the installation's id and is never a client's, by its comment, and by the lock of its name, which is free.
"""

from collections.abc import Collection

import asyncpg

from ods.databases.errors import HOW_TO_RECOVER, DisagreementError, NotOursError
from ods.databases.lookup import (
    DatabaseRows,
    FoundDatabase,
    choose,
    elsewhere,
    find,
    half_dropped,
    require_no_other,
    require_none_since,
    require_one_carrier,
)
from ods.databases.ownership import KnownOwner, Owner, opened_by
from ods.model.revisions import Role
from ods.registry.instances.naming import is_reset_name, is_trash_name


def deletable(
    found: DatabaseRows, owner: KnownOwner, names: list[str], *, published: bool, drops: bool = False
) -> str | None:
    """The database that a delete may drop, move to the trash or release; None if the instance has none.

    It may be in the trash by this delete, or by one that failed before; if by a reset, another one is in use.

    Args:
        names: what the registry calls the database, the name that decides first.
        published: whether the instance ever had it.
        drops: whether the delete drops it; if not, it can come back, or stays.
    """
    database = choose(found, owner, names)
    if database is None:
        if published and names[0] in found:
            raise NotOursError(names[0], registered_for=owner.ods_instance_id)
        require_no_other(found, owner)
        return None
    marked = found[database].marked
    if marked is None or marked.is_unknown_to(owner):
        raise _is_unknown(database)
    is_in_trash = marked.role is Role.RETAINED and is_trash_name(database)
    if is_in_trash:
        require_none_since(found, owner, marked)
    if drops:
        require_one_carrier(found, owner, database)
    if drops and not (published or is_in_trash):
        raise _is_unrecorded(database, marked)
    if drops and (marked.put_back or not marked.agrees_with(owner)):
        raise _is_unknown(database)
    return database


async def find_in_trash(
    session: asyncpg.Connection, owner: KnownOwner, trash: str, *, replaced: bool = False
) -> FoundDatabase | None:
    """The database named `trash`, if registry and server agree that it is in the trash; None if it is gone.

    It may be open if a job has opened it to back it up. If a reset has `replaced` it, the instance may have
    another one in use.
    """
    found = await find(session, owner, trash)
    if trash not in found:
        its = (name for name, row in found.items() if owner.owns(row.comment) and not row.is_invalid)
        if (other := next(its, None)) is not None:
            raise elsewhere(other, trash)
        if not replaced:
            require_no_other(found, owner)
        return None
    row = found[trash]
    if not owner.owns(row.comment):
        raise NotOursError(trash, in_trash=True)
    marked = row.marked
    if marked is None or marked.trashed_name is None or not marked.agrees_with(owner):
        raise DisagreementError(
            trash,
            f"The registry has the database '{trash}' in the trash, but its comment says otherwise: the"
            " registry was restored to an earlier state, or the database was changed by hand. Nothing was"
            " dropped. Undelete the instance, then delete it again.",
        )
    if row.is_open and not opened_by(row.comment) and not row.is_invalid:
        raise DisagreementError(
            trash,
            f"The database '{trash}' in the trash was opened, and may be in use. Nothing was dropped."
            f' Undelete the instance, or close it (ALTER DATABASE "{trash}" ALLOW_CONNECTIONS false), then'
            " retry.",
        )
    if not row.is_invalid:
        require_one_carrier(found, owner, trash)
    return row


def require_not_put_back(row: FoundDatabase) -> None:
    """Refuse to purge what a failed undelete has published: it may have been in use since."""
    marked = row.marked
    if marked is not None and marked.put_back and not row.is_invalid:  # what is half dropped is lost
        raise DisagreementError(
            row.name,
            f"The database '{row.name}' was put back into the trash by {marked.job_id}, which had"
            " opened it and did not end: if the registry was restored to an earlier state, it may have been"
            " used since. Nothing was dropped. Undelete the instance, then delete it again; or purge it with"
            " a final backup.",
        )


async def find_backed_up(
    session: asyncpg.Connection, owner: KnownOwner, trash: str, backed_up: str | None
) -> FoundDatabase | None:
    """The database in the trash, if it is in the state that was `backed_up`; None if it is gone."""
    row = await find_in_trash(session, owner, trash)
    if row is None:
        return None
    if backed_up is None:
        words = f"There is no verified backup of the database '{trash}'. Nothing was dropped. Retry."
        raise DisagreementError(trash, words)
    if row.state == backed_up:  # also if a DROP of it was interrupted, which leaves the state as it was
        return row
    if row.is_invalid:
        raise half_dropped(trash)
    raise DisagreementError(
        trash,
        f"The database '{trash}' was opened or changed since it was backed up. Nothing was dropped. Retry: it"
        " is backed up again.",
    )


def was_never_used(found: DatabaseRows, owner: Owner, other: str, *, deleted: bool) -> bool:
    """Whether the other database was never the instance's, and is not all that is left of it.

    Only what has a private name, and, by its comment, was never published, may go; and only while the
    instance's own is there, unless the instance is `deleted`: another product may have dropped its own.
    """
    has_own = any(owner.owns(row.comment) for row in found.values())
    return _is_made_for_reset(found[other]) and (deleted or has_own)


def made_for_forgotten_resets(
    found: DatabaseRows, owner: Owner, versions: Collection[str | None], *, deleted: bool
) -> list[FoundDatabase]:
    """What was made for resets of the instance that a restored registry has forgotten.

    The registry says that no reset is under way. The instance's own database must be there, unless the
    instance is `deleted`. What the registry knows as the instance's own, or as one from before a reset
    (`versions`), stays: the server was restored to before the exchange.
    """
    own = {name for name, row in found.items() if owner.owns(row.comment)}
    if not deleted and all(is_reset_name(name) for name in own):
        return []
    made = [row for name, row in found.items() if name not in own and _is_made_for_reset(row)]
    return [row for row in made if row.is_of(owner) and row.marked and row.marked.database_id not in versions]


def _is_made_for_reset(row: FoundDatabase) -> bool:
    """Whether, by its name and comment, it was never published."""
    return is_reset_name(row.name) and row.role is Role.STAGING


def _is_unknown(database: str) -> DisagreementError:
    return DisagreementError(
        database,
        f"The registry does not know the state that the comment of '{database}' names: registry or server was"
        f" restored to an earlier state. Nothing was done to it. {HOW_TO_RECOVER} Then request it again.",
    )


def _is_unrecorded(database: str, latest: Owner) -> DisagreementError:
    return DisagreementError(
        database,
        f"The database '{database}' was published by {latest.job_id}, but the registry knows nothing of that:"
        " the job failed when it was to be recorded, or the registry was restored to an earlier state, and"
        " the database may have been used since. Nothing was dropped. Detach the instance, which leaves the"
        " database; or, unless ODS_TRASH_DAYS is 0, delete it without purge, which moves the database to the"
        " trash, where it can come back from.",
    )
