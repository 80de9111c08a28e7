"""Encrypting the connection strings of the registry anew, when the key that encrypts them has been changed.

Each batch is one statement, and a transaction of its own: a rotation that is killed has done what it has
done, and the next one does the rest. A row that another session has changed meanwhile is not overwritten but
looked at again.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import ARRAY, Integer, Select, Text, column, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from registry.connection_strings.encryption import Keyring, UndecipherableError
from registry.storage.models import Base, OdsInstance, OdsInstanceDerivative
from registry.storage.sessions import RegistrySessions

_BATCH = 200


@dataclass(frozen=True)
class _Place:
    """A table with connection strings."""

    name: str
    model: type[Base]
    id: InstrumentedAttribute[int]
    text: InstrumentedAttribute[str | None]


_PLACES = (
    _Place("ODS instance", OdsInstance, OdsInstance.ods_instance_id, OdsInstance.connection_string),
    _Place(
        "derivative",
        OdsInstanceDerivative,
        OdsInstanceDerivative.id,
        OdsInstanceDerivative.connection_string,
    ),
)


@dataclass
class Rotation:
    """What became of the connection strings; `unreadable` names the rows that no key fits."""

    renewed: int = 0
    current: int = 0
    unreadable: list[str] = field(default_factory=list)


async def rotate(engine: AsyncEngine, keys: Keyring) -> Rotation:
    """Encrypt with the current key what was encrypted with another one; what no key fits stays as it is."""
    done = Rotation()
    async with RegistrySessions(engine).statement() as session:
        for place in _PLACES:
            async for page in _pages(session, place):
                await _renew(session, place, keys, page, done)
    return done


async def _pages(session: AsyncSession, place: _Place) -> AsyncIterator[Mapping[int, str]]:
    query = select(place.id, place.text).where(place.text.is_not(None)).order_by(place.id).limit(_BATCH)
    page = await _read(session, query)
    while page:
        yield page
        page = await _read(session, query.where(place.id > max(page)))


async def _read(session: AsyncSession, query: Select[int, str | None]) -> dict[int, str]:
    return {identifier: text for identifier, text in await session.execute(query) if text is not None}


async def _renew(
    session: AsyncSession, place: _Place, keys: Keyring, page: Mapping[int, str], done: Rotation
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
                done.unreadable.append(f"{place.name} {identifier}")
        written = await _write(session, place, page, renewed)
        done.renewed += len(written)
        page = await _again(session, place, renewed.keys() - written)


async def _write(
    session: AsyncSession, place: _Place, old: Mapping[int, str], new: Mapping[int, str]
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
        update(place.model)
        .where(place.id == rows.c.id, place.text == rows.c.old)
        .values({place.text: rows.c.new})
        .returning(place.id)
        .execution_options(synchronize_session=False)
    )
    return set(await session.scalars(statement))


async def _again(session: AsyncSession, place: _Place, identifiers: Iterable[int]) -> dict[int, str]:
    """Rows that another session has changed or removed meanwhile, as they are now."""
    wanted = list(identifiers)
    return await _read(session, select(place.id, place.text).where(place.id.in_(wanted))) if wanted else {}
