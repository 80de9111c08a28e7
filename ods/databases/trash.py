"""The trash: databases of deleted instances, closed and under a private name, until they are purged.

What is put there can come back. What is dropped from there cannot, so that registry and server must agree:
the registry has the name that it has given the database in the trash, and the database carries the mark under
that name, and a comment which says that it is there and is no later than the registry knows.

Everything here runs on a session that holds the fence of the instance, and is safe to repeat after any
interruption.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

import asyncpg

from ods.databases.dropping import deletable, drop_database, drop_found_staging, drop_obstacle
from ods.databases.errors import DatabaseFaultError, DisagreementError, NotOursError
from ods.databases.left_names import leaving, recorded, require_not_left, require_not_taken
from ods.databases.lookup import (
    DatabaseRows,
    find,
    is_invalid,
    refusal,
    require_no_other,
    shares_instance,
    version_in,
)
from ods.databases.ownership import KnownOwner, Owner, opened_by, trashed_at
from ods.databases.renaming import change_name, owner_to_mark
from ods.databases.server import Server
from ods.databases.statements import server_clock
from ods.registry.instances.naming import is_reset_name, is_trash_name

_COMMENT = "COMMENT ON DATABASE %2$I IS %3$L"
_CLOSE = ("ALTER DATABASE %2$I ALLOW_CONNECTIONS false", _COMMENT)
_OPEN = ("ALTER DATABASE %2$I ALLOW_CONNECTIONS true", _COMMENT)
_IS_LEFT = "The instance's database {}, but what it had before a reset is in the trash, as '{}'."
_LET_GO = ("ALTER DATABASE %2$I ALLOW_CONNECTIONS true", "COMMENT ON DATABASE %2$I IS NULL")


@dataclass(frozen=True)
class TrashJob:
    """What a job of the trash works on.

    Attributes:
        owner: the instance, and the latest attempt that can have published its database.
        number: the job that puts the database into the trash.
        attempt: the attempt at it.
        names: what the registry calls the database, the name that decides first; not that in the trash.
        trash: its name in the trash.
        put_back: whether it was there before, and the job, which did not end, has taken it out.
    """

    owner: KnownOwner
    number: int
    attempt: int
    names: list[str]
    trash: str
    put_back: bool = False


async def put(
    server: Server,
    session: asyncpg.Connection,
    job: TrashJob,
    *,
    drop_invalid: bool = False,
    published: bool = True,
) -> bool:
    """Close the instance's database and give it its name in the trash; false if there is none to keep.

    Args:
        server: the server.
        session: a fenced session.
        job: what it works on.
        drop_invalid: whether a database is dropped whose DROP was interrupted, for a delete that a client has
            requested: nothing else can be done with it.
        published: whether the instance ever had that database, as for `ods.databases.dropping.drop`.

    Raises:
        NotOursError: a database of one of the names is not the instance's.
        DisagreementError: the database was published later than the registry knows, or has another name; or
            it is lost, and what the instance had before a reset, or was to become it, is not.
        DatabaseFaultError: sessions cannot be ended, the server is away, …
    """
    owner = job.owner
    found = await find(session, owner, *job.names, job.trash, owner.staging_name)
    database = deletable(found, owner, [*job.names, job.trash], published=published)
    if database is None and published and not job.put_back:
        _require_no_version(found, owner)
        _require_no_staging(found, owner)
    await drop_found_staging(session, owner, found)
    if database is None:
        return False
    if database == job.trash:
        return True
    if job.trash in found:
        raise _in_the_way(found[job.trash], owner, database)
    if drop_invalid and is_invalid(found[database]):
        _require_no_version(found, owner, half_dropped=database)
        await drop_database(session, database, invalid=True)
        return False
    trashing = replace(
        owner, number=job.number, attempt=job.attempt, trashed_name=database, put_back=job.put_back
    )
    marked = owner_to_mark(trashing, found[database])
    registered, now = job.names[0], await server_clock(session)
    # The ODS/API is led to it no more: what a rename had only begun to leave, the registry's name, is free at
    # once. What it has left by the registry may be in a cache when it comes back, whether or not the worker
    # that recorded the rename has still written the time.
    marked = replace(marked, left=recorded(marked.left, registered, registered, now))
    await change_name(server, session, found[database], job.trash, _CLOSE, marked.comment_at(now))
    return True


async def take_out(  # noqa: PLR0913 - what becomes of a database
    server: Server,
    session: asyncpg.Connection,
    owner: KnownOwner,
    trash: str,
    database: str,
    *,
    former: str | None = None,
) -> None:
    """Give the database in the trash the name `database`, open it, and mark it as published.

    Also if it is in the trash under another name than the registry knows, as when that was restored to before
    another delete.

    Args:
        server: the server.
        session: a fenced session.
        owner: the instance, at the attempt that the database is marked with.
        trash: the name that it has in the trash.
        database: the name that it shall have.
        former: the name by which the ODS/API may still know it, the registry's; not that of the comment,
            which may be of an undelete that has failed. None if it does not matter.

    Raises:
        NotOursError: a database of that name is not the instance's.
        NameLeftError: another instance's database has left that name just now.
        FormerNameTakenError: it comes back under another name, and another database has just got its former.
        DisagreementError: that is another database of the instance, two databases carry the mark, one of
            another kind of name does, or a DROP has begun.
        DatabaseFaultError: there is no such database, the server is away, …
    """
    found = await find(session, owner, database, trash, owner.staging_name)
    if database in found and not owner.owns(found[database]["comment"]):
        raise refusal(found[database], owner, then="")
    owned = [name for name, row in found.items() if owner.owns(row["comment"])]
    its = [name for name in owned if name == database or is_trash_name(name)]
    if not its and owned:
        raise _elsewhere(owned[0], trash)
    if not its and trash in found and shares_instance(found[trash], owner):
        raise DisagreementError(
            trash,
            f"The database '{trash}' in the trash carries the mark of this instance, but by its comment it is"
            " not the one that the instance has by the registry: a worker of an earlier release has written"
            " it, or it was changed by hand. Nothing was done to it. `ods drift` tells which comment it"
            " should have; write that if the database is the instance's, then try again.",
        )
    if not its and trash in found:
        raise NotOursError(trash, in_trash=True)
    if not its:
        raise DatabaseFaultError(
            f"There is no database '{trash}' with the mark of this instance:"
            f" {_what_is_left(found, owner) or 'nothing can come back. Restore it, or purge the instance.'}"
        )
    current, *others = its
    if others:
        raise _two(current, others[0])
    if is_invalid(found[current]):
        raise DisagreementError(
            current,
            f"A DROP of the database '{current}' was interrupted:"
            f" {_what_is_left(found, owner) or 'nothing can come back. Purge it.'}",
        )
    row = found[current]
    marked = Owner.read(row["comment"])
    if current == database and row["datallowconn"] and marked and marked.trashed_name is None:
        return
    opened = replace(owner_to_mark(owner, row), trashed_name=None)
    guards = [] if current == database else [await require_not_left(session, owner, database)]
    if former is not None and former not in {current, database}:  # under another name, as after a rename
        guards.append(await require_not_taken(session, former, trashed_at(row["comment"])))
        opened = replace(opened, left=leaving(opened.left, former))
    statements = [*_OPEN, *(guard.replace("%", "%%") for guard in guards)]
    comment = opened.comment_at(await server_clock(session))
    await change_name(server, session, row, database, statements, comment)


async def require_no_later(
    session: asyncpg.Connection, owner: KnownOwner, trash: str, versions: Mapping[str, tuple[int, int]]
) -> None:
    """Refuse an undelete while there is another database of the instance that was published later.

    The instance was undeleted and reset since, and may have been deleted again: the registry was restored to
    before, and what it knows to be in the trash is what a reset has replaced. What the registry itself knows
    to be replaced is not later, whatever number its comment has: an adoption for a job that has failed gives
    the number of the registry, which may be a lower one, to the database that it hands over.

    Args:
        session: a fenced session.
        owner: the instance.
        trash: the name that its database has in the trash.
        versions: the publications of what the registry knows to be replaced, by the names in the trash.

    Raises:
        DisagreementError: there is such a database.
        DatabaseFaultError: the server is away, …
    """
    found = await find(session, owner)
    its = {name for name, row in found.items() if name == trash or owner.owns(row["comment"])}
    own = max((_publication(found[name]) for name in its), default=(0, 0))
    for name, row in found.items():
        is_other = name not in its and shares_instance(row, owner)
        is_later = _publication(row) > own or (_publication(row) == own and not is_put_away(row))
        is_known = versions.get(name) == _publication(row) and _has_known_request(row, owner)
        if is_other and is_later and not (is_known or is_reset_name(name) or is_invalid(row)):
            raise refusal(row, owner, then="")


def _has_known_request(row: asyncpg.Record, owner: KnownOwner) -> bool:
    marked = Owner.read(row["comment"])
    return marked is None or marked.has_request_among(owner.requests)


def _publication(row: asyncpg.Record) -> tuple[int, int]:
    marked = Owner.read(row["comment"])
    return marked.publication if marked else (0, 0)


def is_put_away(row: asyncpg.Record) -> bool:
    """Whether a database is in the trash by its name and comment, so that no undelete has taken it out."""
    return owner_in_trash(row) is not None


def owner_in_trash(row: asyncpg.Record) -> Owner | None:
    """The owner of a database that is in the trash by its name and comment; None of any other one."""
    marked = Owner.read(row["comment"])
    is_there = is_trash_name(row["datname"]) and marked is not None and marked.trashed_name is not None
    return marked if is_there else None


async def purge(
    session: asyncpg.Connection,
    owner: KnownOwner,
    trash: str,
    *,
    replaced: bool = False,
    before: Callable[[], Awaitable[object]],
) -> bool:
    """Drop the database that has the name `trash`, if registry and server agree that it is in the trash.

    Nothing is done if no database carries the mark any more. Returns whether one was dropped.

    Args:
        session: a fenced session.
        owner: the instance, and the latest attempt that can have put its database there.
        trash: the name of the database.
        replaced: whether a reset has replaced it, so that the instance may have another one in use.
        before: as for `ods.databases.dropping.drop_database`.

    Raises:
        NotOursError: the database of that name is not the instance's.
        DisagreementError: it is not in the trash by its comment, was put there later than the registry knows,
            or by an undelete that did not end, or is open; or only a database of another name carries the
            mark.
        DatabaseFaultError: sessions cannot be ended, the server is away, …
    """
    row = await find_in_trash(session, owner, trash, replaced=replaced)
    if row is None:
        return False
    marked = Owner.read(row["comment"])
    if (
        marked is not None and marked.put_back and not is_invalid(row)
    ):  # what is half dropped cannot come back
        raise DisagreementError(
            trash,
            f"The database '{trash}' was put back into the trash by {marked.job_id}, which had opened it"
            " and did not end: if the registry was restored to an earlier state, it may have been used since."
            " Nothing was dropped. Undelete the instance, then delete it again; or purge it with a final"
            " backup.",
        )
    await drop_database(session, trash, invalid=is_invalid(row), before=before)
    return True


def _require_no_staging(found: DatabaseRows, owner: Owner) -> None:
    """Refuse a delete that leaves nothing to come back, while there is what was to become the database.

    Raises:
        DisagreementError: there is such a database.
    """
    if (staging := owner.staging_name) in found:
        raise DisagreementError(
            staging,
            f"The instance's database does not exist, but what was to become it is there, as '{staging}': the"
            " server was put back to before that was published. Nothing was done. `ods drift` tells how it"
            " comes back; or drop it as well: DELETE with ?purge=true, or `ods instance purge ID --live`.",
        )


def _require_no_version(found: DatabaseRows, owner: Owner, half_dropped: str | None = None) -> None:
    """Refuse a delete that leaves nothing to come back, while there is what the instance had before a reset.

    Args:
        found: the databases of the instance.
        owner: the instance.
        half_dropped: its own database, if a DROP has begun to remove that; None: there is none.

    Raises:
        DisagreementError: there is such a database.
    """
    if (name := version_in(found, owner)) is not None:
        state, drop = "does not exist", ""
        if half_dropped is not None:
            state, drop = f"'{half_dropped}' is half dropped", f'DROP DATABASE "{half_dropped}" by hand, '
        raise DisagreementError(
            name,
            f"{_IS_LEFT.format(state, name)} Nothing was done. To keep that, {drop}hand it to the instance"
            f" (`ods instance adopt {owner.ods_instance_id} --database {name}`), then retry the delete; or"
            " drop all that is left: DELETE with ?purge=true, or `ods instance purge ID --live`.",
        )


async def require_no_version_in_trash(session: asyncpg.Connection, owner: Owner) -> None:
    """Refuse a purge with a backup, of which there is none, while there is what was before a reset.

    Raises:
        DisagreementError: there is such a database.
        DatabaseFaultError: the server is away, …
    """
    if (name := version_in(await find(session, owner), owner)) is not None:
        raise DisagreementError(
            name,
            f"{_IS_LEFT.format('does not exist', name)} No backup can be made of it, and nothing was dropped."
            " `ods drift` tells how it comes back; or, unless ODS_FINAL_BACKUP is true, drop it as well:"
            " purge the instance without a backup.",
        )


def _what_is_left(found: DatabaseRows, owner: Owner) -> str | None:
    """What else may have the data of an instance that has lost its own database; None if nothing has."""
    version = version_in(found, owner)
    if owner.staging_name in found:
        words = f"what was to become it, before it was published, is there as '{owner.staging_name}'"
    elif version is not None:
        words = f"what the instance had before a reset is in the trash, as '{version}'"
    else:
        return None
    return f"{words}. `ods drift` tells how that comes back. A purge of the instance would drop it as well."


async def find_in_trash(
    session: asyncpg.Connection, owner: KnownOwner, trash: str, *, replaced: bool = False
) -> asyncpg.Record | None:
    """The database that has the name `trash`, if registry and server agree that it is in the trash.

    None if no database carries the mark any more. It may be open if a job has opened it to back it up. If a
    reset has `replaced` it, the instance may have another one in use.

    Raises:
        NotOursError: the database of that name is not the instance's.
        DisagreementError: it is not in the trash by its comment, was put there later than the registry knows,
            or was opened; or only a database of another name carries the mark.
        DatabaseFaultError: the server is away, …
    """
    found = await find(session, owner, trash)
    if trash not in found:
        if others := [name for name, row in found.items() if owner.owns(row["comment"])]:
            raise _elsewhere(others[0], trash)
        if not replaced:
            require_no_other(found, owner)
        return None
    if not owner.owns(found[trash]["comment"]):
        raise NotOursError(trash, in_trash=True)
    marked = Owner.read(found[trash]["comment"])
    if marked is None or marked.trashed_name is None or marked.is_unknown_to(owner):
        raise DisagreementError(
            trash,
            f"The registry has the database '{trash}' in the trash, but its comment says otherwise: the"
            " registry was restored to an earlier state, or the database was changed by hand. Nothing was"
            " dropped. Undelete the instance, then delete it again.",
        )
    is_opened = found[trash]["datallowconn"] and not opened_by(found[trash]["comment"])
    if is_opened and not is_invalid(found[trash]):
        raise DisagreementError(
            trash,
            f"The database '{trash}' in the trash was opened, and may be in use. Nothing was dropped."
            f' Undelete the instance, or close it (ALTER DATABASE "{trash}" ALLOW_CONNECTIONS false), then'
            " retry.",
        )
    return found[trash]


async def let_go(
    server: Server, session: asyncpg.Connection, owner: KnownOwner, names: list[str], *, published: bool
) -> None:
    """Remove the mark of the instance's database, which stays, open, under the first of `names`.

    Args:
        server: the server.
        session: a fenced session.
        owner: the instance, and the latest attempt that can have published its database.
        names: what the registry calls the database.
        published: whether the instance ever had that database, as for `ods.databases.dropping.drop`.

    Raises:
        NotOursError: the database of that name is not the instance's.
        DisagreementError: it was published later than the registry knows, has another name, or a DROP of it
            was interrupted; or it is lost, and what the instance had before a reset, or was to become it,
            is not.
        DatabaseFaultError: the server is away, …
    """
    found = await find(session, owner, *names, owner.staging_name)
    if _is_let_go(found, owner, names[0]):
        return  # by an earlier try
    database = deletable(found, owner, names, published=published)
    if database is None:
        _require_no_version(found, owner)
        if published:
            _require_no_staging(found, owner)
    await drop_found_staging(session, owner, found)
    if database is None:
        return
    if is_invalid(found[database]):
        raise DisagreementError(
            database,
            f"A DROP of the database '{database}' was interrupted:"
            f" {_what_is_left(found, owner) or 'delete the instance with it.'}",
        )
    if database != names[0] and names[0] in found:
        raise NotOursError(names[0])
    await change_name(server, session, found[database], names[0], _LET_GO)


async def let_go_obstacle(session: asyncpg.Connection, owner: KnownOwner, names: list[str]) -> str | None:
    """Why `let_go` would refuse the published database of these names; None if it would not.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    if _is_let_go(await find(session, owner, *names), owner, names[0]):
        return None
    return await drop_obstacle(session, owner, names)


def _is_let_go(found: DatabaseRows, owner: Owner, database: str) -> bool:
    """Whether an earlier try has removed the mark: no database carries it, and that one has no comment."""
    is_marked = any(owner.owns(row["comment"]) for row in found.values())
    return not is_marked and database in found and found[database]["comment"] is None


def _elsewhere(database: str, trash: str) -> DisagreementError:
    return DisagreementError(
        database,
        f"The registry has the instance's database in the trash, as '{trash}', but '{database}' carries its"
        " mark. Nothing was done to it. `ods drift` tells how it comes back.",
    )


def _in_the_way(row: asyncpg.Record, owner: Owner, database: str) -> DatabaseFaultError:
    """Why the database cannot get the name in the trash that another one has."""
    trash = row["datname"]
    if owner.owns(row["comment"]):
        return _two(database, trash)
    if not shares_instance(row, owner):
        return NotOursError(trash)
    return DisagreementError(
        trash,
        f"'{database}' was to be moved to the trash as '{trash}', but another database of this instance has"
        " that name: the registry was restored to an earlier state. Nothing was done to either. Give that one"
        " another number at the end of its name (ALTER DATABASE … RENAME TO …), then retry. `ods drift` tells"
        " how it is kept.",
    )


def _two(database: str, trash: str) -> DisagreementError:
    return DisagreementError(
        trash,
        f"Both '{database}' and '{trash}' carry the mark of this instance. Nothing was done to either. Remove"
        " the comment of the one that is not the instance's (COMMENT ON DATABASE … IS NULL), then try again.",
    )
