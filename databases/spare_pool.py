"""Keeping spare databases in stock: which are wanted, making them, and removing those that are not."""

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import asyncpg

from databases import provisioning, spares
from databases.errors import DatabaseFaultError, translate_postgres_errors
from databases.provisioning import Copy, TemplateSizes
from databases.server import Server
from databases.spares import Fingerprint, Spare, SpareMark, Stock
from settings import CloneStrategy, Settings

# Not by `backend_type`, which others may not see; autovacuum has no user.
_STRANGERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND usesysid IS NOT NULL"


@dataclass(frozen=True)
class Limits:
    """How many spares there may be of a template, how many in all, and how many bytes all may take."""

    of_template: int
    in_all: int
    size_bytes: int


@dataclass(frozen=True)
class SpareOrder:
    """A spare that shall be made."""

    name: str
    template: str


@dataclass(frozen=True)
class PruneResult:
    """How many databases were removed, and which spares are missing now."""

    removed: int
    missing: list[SpareOrder]


@dataclass(frozen=True)
class TemplatePool:
    """The spares of one template: how many there shall be, how many there are, and what they take."""

    template: str
    wanted: int
    ready: int
    stale: int
    size_bytes: int


@dataclass(frozen=True)
class Shelves:
    """The spares of all templates; of those that are unfinished nobody knows the template."""

    templates: list[TemplatePool]
    unfinished: int


class SparePool:
    """The spares of one installation on one server.

    Args:
        server: where they are.
        installation: tells the installation's id.
        templates: names of the template databases.
        strategy: how templates are copied.
        limits: how many spares are wanted.
    """

    def __init__(
        self,
        server: Server,
        installation: Callable[[], Awaitable[str]],
        templates: Collection[str],
        strategy: CloneStrategy,
        limits: Limits,
    ) -> None:
        self._server = server
        self._installation = installation
        self._templates = sorted(templates)
        self._strategy = strategy
        self._limits = limits
        self._sizes = TemplateSizes()

    @classmethod
    def from_settings(
        cls, settings: Settings, server: Server, installation: Callable[[], Awaitable[str]]
    ) -> Self:
        """The spares that the settings want."""
        limits = Limits(settings.spares, settings.spares_limit, settings.spares_megabytes * 1024 * 1024)
        templates = settings.template_databases.values()
        return cls(server, installation, set(templates), settings.clone_strategy, limits)

    async def shelves(self) -> Shelves:
        """What there is, and what is wanted.

        Raises:
            DatabaseFaultError: the server is away, …
        """
        async with self._server.session() as session:
            stock, wanted = await self._compared(session)
        marked = {spare.mark.template for spare in stock.spares if spare.mark}
        return Shelves(
            [_shelf(stock, template, len(wanted.get(template, []))) for template in self._all(marked)],
            unfinished=sum(spare.mark is None for spare in stock.spares),
        )

    async def prune(self) -> PruneResult:
        """Remove what is stale, unfinished or too much, and find out what is missing.

        Raises:
            DatabaseFaultError: the server is away, …
        """
        async with self._server.session() as session:
            installation = await self._installation()
            stock = await self._look(session)
            ready = [spare for template in self._templates for spare, _ in stock.ready(template)]
            removed = sum([await self._removed(session, it) for it in stock.spares if it not in ready])
            stock, wanted = await self._compared(session)
            kept = [spare for places in wanted.values() for spare in places]
            surplus = [spare for spare in ready if spare not in kept]
            removed += sum([await self._removed(session, spare) for spare in surplus])
        empty = {template: sum(spare is None for spare in places) for template, places in wanted.items()}
        rounds = range(max(empty.values(), default=0))
        orders = [template for number in rounds for template in empty if empty[template] > number]
        return PruneResult(
            removed, [SpareOrder(spares.new_name(installation), template) for template in orders]
        )

    async def replenish(self, order: SpareOrder) -> None:
        """Make a spare, or find that an earlier attempt has made it.

        Raises:
            DatabaseFaultError: the template is open, missing or in use, the server is away, …
        """
        async with self._server.locked(order.name) as session:
            with translate_postgres_errors({}):
                stock = await self._look(session)
                if order.name in [spare.name for spare, _ in stock.ready(order.template)]:
                    return
                state = stock.states.get(order.template)
                if state is None:
                    raise DatabaseFaultError(
                        f"The template '{order.template}' does not exist or is open: close it (ALTER DATABASE"
                        " … ALLOW_CONNECTIONS false), for only then it cannot change."
                    )
                for leftover in (spare for spare in stock.spares if spare.name == order.name):
                    await provisioning.drop_database(session, leftover.name, invalid=leftover.invalid)
                await self._make(session, order, state)

    async def _make(self, session: asyncpg.Connection, order: SpareOrder, state: Fingerprint) -> None:
        copy = Copy(order.template, order.name, self._strategy)
        size = await provisioning.clone(session, copy, self._sizes)
        await self._prove(session, order.name)
        if (await self._look(session)).states.get(order.template) != state:
            raise DatabaseFaultError(
                f"The template '{order.template}' was changed meanwhile.", retryable=True
            )
        mark = SpareMark(await self._installation(), order.template, state, size)
        await provisioning.execute(session, "COMMENT ON DATABASE %I IS %L", order.name, mark.comment)

    async def _prove(self, session: asyncpg.Connection, name: str) -> None:
        """Open a new spare for a moment, and show that it accepts a connection and answers."""
        await provisioning.execute(session, "ALTER DATABASE %I ALLOW_CONNECTIONS true", name)
        await provisioning.verify(self._server, name)
        await provisioning.execute(session, "ALTER DATABASE %I ALLOW_CONNECTIONS false", name)
        if await session.fetchval(_STRANGERS, name):
            raise DatabaseFaultError("Somebody else connected to the new spare.", retryable=True)

    async def _removed(self, session: asyncpg.Connection, spare: Spare) -> bool:
        """Remove a spare unless somebody works on it, or it is no longer what it was."""
        with translate_postgres_errors({}):
            async with spares.held(session, spare.name) as free:
                if not free or spare not in (await self._look(session)).spares:
                    return False
                try:
                    await provisioning.drop_database(session, spare.name, invalid=spare.invalid)
                except DatabaseFaultError:
                    return False  # it is shown, and the next pass tries again; the others need not wait
                return True

    async def _look(self, session: asyncpg.Connection) -> Stock:
        with translate_postgres_errors({}):
            return await spares.look(session, await self._installation(), self._templates)

    async def _compared(
        self, session: asyncpg.Connection
    ) -> tuple[Stock, Mapping[str, Sequence[Spare | None]]]:
        """What there is, and the places that the limits allow it."""
        stock = await self._look(session)
        sizes = {template: await self._size(session, template) for template in self._templates}
        return stock, allotted(
            stock, {name: size for name, size in sizes.items() if size is not None}, self._limits
        )

    async def _size(self, session: asyncpg.Connection, template: str) -> int | None:
        """The template's size; None if it is missing or may not be read: then there are no spares of it."""
        try:
            return await self._sizes.of(session, template)
        except DatabaseFaultError as fault:
            if fault.retryable:
                raise
            return None

    def _all(self, marked: Collection[str]) -> list[str]:
        return [*self._templates, *sorted(set(marked) - set(self._templates))]


def allotted(stock: Stock, sizes: Mapping[str, int], limits: Limits) -> Mapping[str, Sequence[Spare | None]]:
    """The places for spares of each closed template, as far as the limits go; None is an empty one.

    Templates take turns, so that the limits do not leave one of them without any.
    """
    places: dict[str, list[Spare | None]] = {template: [] for template in sizes if template in stock.states}
    ready = {template: iter(stock.ready(template)) for template in places}
    free = limits.size_bytes
    count = sum(spare.mark is None for spare in stock.spares)
    for template in _turns(places, limits.of_template):
        spare, mark = next(ready[template], (None, None))
        size = mark.size_bytes if mark else sizes[template]
        if count < limits.in_all and size <= free:
            places[template].append(spare)
            count, free = count + 1, free - size
    return places


def _turns(templates: Collection[str], rounds: int) -> Iterator[str]:
    for _ in range(rounds):
        yield from templates


def _shelf(stock: Stock, template: str, wanted: int) -> TemplatePool:
    marks = [spare.mark for spare in stock.spares if spare.mark and spare.mark.template == template]
    ready = stock.ready(template)
    return TemplatePool(
        template, wanted, len(ready), len(marks) - len(ready), sum(it.size_bytes for it in marks)
    )
