"""Retiring a database: it is closed, gets a private name in the trash, and its comment says so."""

from dataclasses import dataclass, replace

import asyncpg

from ods.databases.changing import CLOSE, MARK, change_name, is_marked, owner_to_mark
from ods.databases.droppable import deletable
from ods.databases.dropping import drop_found_staging, drop_rest
from ods.databases.errors import DatabaseFaultError, DisagreementError, NotOursError
from ods.databases.left_names import recorded
from ods.databases.lookup import FoundDatabase, find, require_no_staging, require_no_version, two_carriers
from ods.databases.ownership import KnownOwner, Owner
from ods.databases.server import Server
from ods.databases.statements import server_clock
from ods.registry.instances.naming import is_trash_name


@dataclass(frozen=True)
class TrashJob:
    """What a job of the trash works on.

    Attributes:
        owner: the instance, with the revision that its database gets in the trash.
        names: what the registry calls the database, the name that decides first; not that in the trash.
        put_back: whether a failed undelete has taken the database out of the trash before.
    """

    owner: KnownOwner
    names: list[str]
    trash: str
    put_back: bool = False


async def retire(
    server: Server,
    session: asyncpg.Connection,
    job: TrashJob,
    *,
    drop_invalid: bool = False,
    published: bool = True,
) -> bool:
    """Close the instance's database and give it its name in the trash; false if there is none to keep.

    Refuses if the database is lost while there is one from before a reset, or one that was never published.

    With `drop_invalid`, a half-dropped database is dropped, as for a delete that a client has requested:
    nothing else can be done with it.
    """
    owner = job.owner
    found = await find(session, owner, *job.names, job.trash, owner.staging_name)
    database = deletable(found, owner, [*job.names, job.trash], published=published)
    if database is None and published and not job.put_back:
        require_no_version(found, owner)
        require_no_staging(found, owner)
    await drop_found_staging(session, owner, found)
    if database is None:
        return False
    if database == job.trash and is_marked(found[database], owner):
        return True
    if database != job.trash and job.trash in found:
        raise _in_the_way(found[job.trash], owner, database)
    if drop_invalid and found[database].is_invalid:
        require_no_version(found, owner, half_dropped=database)
        await drop_rest(session, found[database])
        return False
    before = found[database].marked
    left = (before.trashed_name if before else None) or database
    put_back = job.put_back or (before is not None and before.put_back)
    marked = owner_to_mark(replace(owner, trashed_name=left, put_back=put_back), found[database])
    registered, now = job.names[0], await server_clock(session)
    # The registry's name is free at once, even if a rename had begun to leave it: the ODS/API is led to this
    # database no more. Names that it left before may still be in a cache when it comes back: their time
    # begins now, unless a worker has recorded it.
    marked = replace(marked, left=recorded(marked.left, registered, registered, now))
    comment = marked.comment_at(now)
    await change_name(server, session, found[database], job.trash, CLOSE, MARK, comment=comment)
    return True


def owner_in_trash(database: str, comment: str | None) -> Owner | None:
    """The owner of a database that is in the trash by its name and comment; None of any other."""
    marked = Owner.read(comment)
    is_there = is_trash_name(database) and marked is not None and marked.trashed_name is not None
    return marked if is_there else None


def _in_the_way(row: FoundDatabase, owner: Owner, database: str) -> DatabaseFaultError:
    """Why the database cannot get a name in the trash that another one has."""
    trash = row.name
    if owner.owns(row.comment):
        return two_carriers(database, trash)
    if not row.is_of(owner):
        return NotOursError(trash)
    return DisagreementError(
        trash,
        f"'{database}' was to be moved to the trash as '{trash}', but another database of this instance has"
        " that name. Nothing was done to either. Give that one another name (ALTER DATABASE … RENAME TO …),"
        " then retry.",
    )
