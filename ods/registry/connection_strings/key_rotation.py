"""Encrypting the connection strings of the registry anew, when the key that encrypts them has been changed.

Each batch is one statement, and a transaction of its own: if a rotation is killed, its batches stay, and the
next rotation does the rest. A row that another session has changed since it was read is not overwritten but
read again.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field, replace

from sqlalchemy import ARRAY, Integer, Select, Text, column, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from ods.registry.connection_strings.encryption import Keyring, UndecipherableError
from ods.registry.storage.models import Base, DbInstance, OdsInstance, OdsInstanceDerivative, Snapshot
from ods.registry.storage.sessions import RegistrySessions

_BATCH = 200


@dataclass(frozen=True)
class _Strings:
    """A table with connection strings: its name in messages, its columns."""

    name: str
    model: type[Base]
    id: InstrumentedAttribute[int]
    text: InstrumentedAttribute[str | None]


_STRINGS = (
    _Strings("ODS instance", OdsInstance, OdsInstance.ods_instance_id, OdsInstance.connection_string),
    _Strings(
        "derivative",
        OdsInstanceDerivative,
        OdsInstanceDerivative.id,
        OdsInstanceDerivative.connection_string,
    ),
)


@dataclass
class Rotation:
    """The outcome for all connection strings.

    Attributes:
        renewed: how many were encrypted anew.
        current: how many were encrypted with the current key already.
        unreadable: the rows whose strings no key fits.
    """

    renewed: int = 0
    current: int = 0
    unreadable: list[str] = field(default_factory=list)


async def rotate(engine: AsyncEngine, keys: Keyring) -> Rotation:
    """Encrypt with the current key the strings that another key encrypted; those that no key fits stay."""
    done, sessions = Rotation(), RegistrySessions(engine)
    # What goes to the trash or comes back while the tables are read is met on one side or the other.
    async with sessions.transaction() as session:
        early = await _renew_set_aside(session, keys, Rotation())
    async with sessions.statement() as session:
        for strings in _STRINGS:
            async for page in _pages(session, strings):
                await _renew(session, strings, keys, page, done)
    async with sessions.transaction() as session:
        await _renew_set_aside(session, keys, done)
    # Those have the key now, wherever they are.
    return replace(done, renewed=done.renewed + early.renewed, current=max(done.current - early.renewed, 0))


async def _renew_set_aside(session: AsyncSession, keys: Keyring, done: Rotation) -> Rotation:
    """The strings of derivatives that come back from the trash: few, and so in one transaction."""
    kept = select(DbInstance).where(DbInstance.set_aside.is_not(None)).with_for_update()
    for row in await session.scalars(kept):
        derivatives = []
        for derivative in (row.set_aside or {})["derivatives"]:
            text = derivative["connectionString"]
            try:
                new = keys.renewed(text) if text is not None else None
                done.renewed += new is not None
                done.current += new is None and text is not None
            except UndecipherableError:
                new = None
                done.unreadable.append(f"derivative {derivative['id']} in the trash")
            derivatives.append({**derivative, "connectionString": new or text})
        row.set_aside = {**(row.set_aside or {}), "derivatives": derivatives}
    return done


async def _pages(session: AsyncSession, strings: _Strings) -> AsyncIterator[Mapping[int, str]]:
    query = (
        select(strings.id, strings.text).where(strings.text.is_not(None)).order_by(strings.id).limit(_BATCH)
    )
    page = await _read(session, query)
    while page:
        yield page
        page = await _read(session, query.where(strings.id > max(page)))


async def _read(session: AsyncSession, query: Select[int, str | None]) -> dict[int, str]:
    return {identifier: text for identifier, text in await session.execute(query) if text is not None}


async def _renew(
    session: AsyncSession, strings: _Strings, keys: Keyring, page: Mapping[int, str], done: Rotation
) -> None:
    while page:
        renewed: dict[int, str] = {}
        for identifier, text in page.items():
            try:
                if (new := keys.renewed(text)) is None:
                    done.current += 1
                else:
                    renewed[identifier] = new
            except UndecipherableError:
                done.unreadable.append(f"{strings.name} {identifier}")
        written = await _write(session, strings, page, renewed)
        done.renewed += len(written)
        page = await _again(session, strings, renewed.keys() - written)


async def _write(
    session: AsyncSession, strings: _Strings, old: Mapping[int, str], new: Mapping[int, str]
) -> set[int]:
    """Write those rows that are as they were read; returns their ids."""
    if not new:
        return set()
    columns = (column("id", Integer), column("old", Text), column("new", Text))
    unnested = func.unnest(
        literal(list(new), ARRAY(Integer)),
        literal([old[identifier] for identifier in new], ARRAY(Text)),
        literal(list(new.values()), ARRAY(Text)),
    )
    rows = unnested.table_valued(*columns, name="renewed").render_derived()
    statement = (
        update(strings.model)
        .where(strings.id == rows.c.id, strings.text == rows.c.old)
        .values({strings.text: rows.c.new})
        .returning(strings.id)
        .execution_options(synchronize_session=False)
    )
    # By its text, the derivative that leads to a snapshot is known as ours.
    snapshots = (
        update(Snapshot)
        .where(Snapshot.connection_string == rows.c.old)
        .values(connection_string=rows.c.new)
        .execution_options(synchronize_session=False)
    )
    return set(await session.scalars(statement.add_cte(snapshots.cte("snapshots"))))


async def _again(session: AsyncSession, strings: _Strings, identifiers: Iterable[int]) -> dict[int, str]:
    """The rows with these ids as they are now: another session has changed or removed them."""
    wanted = list(identifiers)
    return (
        await _read(session, select(strings.id, strings.text).where(strings.id.in_(wanted))) if wanted else {}
    )
