"""The pool of an installation's spare databases: how many are wanted, making and removing them."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import asyncpg

from ods.databases import provisioning
from ods.databases.changing import count_sessions
from ods.databases.dropping import drop_database
from ods.databases.errors import DatabaseFaultError
from ods.databases.provisioning import Copy, TemplateSizes
from ods.databases.server import Server
from ods.databases.statements import execute
from ods.databases.templates import spares
from ods.databases.templates.spares import Fingerprint, Spare, SpareList, SpareMark
from ods.settings.settings import CloneStrategy, Settings


@dataclass(frozen=True)
class Limits:
    """How many spares there may be of one template and of all, and how many bytes all together may take."""

    of_template: int
    in_all: int
    size_bytes: int


@dataclass(frozen=True)
class SpareOrder:
    """A spare to be made of a template database."""

    name: str
    template: str


@dataclass(frozen=True)
class PruneResult:
    """How many spares were removed, and which are missing now."""

    removed: int
    missing: list[SpareOrder]


@dataclass(frozen=True)
class TemplatePool:
    """The spares of one template.

    Attributes:
        wanted: how many the limits allow.
        ready: how many are copies of the template as it is now.
        stale: how many are copies of an earlier state of it.
        size_bytes: of all together.
    """

    template: str
    wanted: int
    ready: int
    stale: int
    size_bytes: int


@dataclass(frozen=True)
class PoolReport:
    """The spares of each template; those that are `unfinished` do not say of which template they are."""

    templates: list[TemplatePool]
    unfinished: int

    @property
    def missing(self) -> int:
        """How many spares are wanted and not ready."""
        return sum(max(0, pool.wanted - pool.ready) for pool in self.templates)


class SparePool:
    """The spares of one installation on one server."""

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
        """The pool with the limits that the settings give."""
        limits = Limits(settings.spares, settings.spares_limit, settings.spares_megabytes * 1024 * 1024)
        templates = settings.template_databases.values()
        return cls(server, installation, set(templates), settings.clone_strategy, limits)

    async def report(self) -> PoolReport:
        """How many spares there are, and how many are wanted."""
        async with self._server.session() as session:
            listed, wanted = await self._list_with_allotment(session)
        marked = {spare.mark.template for spare in listed.spares if spare.mark}
        templates = [*self._templates, *sorted(marked - set(self._templates))]
        return PoolReport(
            [_template_pool(listed, template, len(wanted.get(template, []))) for template in templates],
            unfinished=sum(spare.mark is None for spare in listed.spares),
        )

    async def prune(self) -> PruneResult:
        """Remove spares that are stale, unfinished or beyond the limits, and find out which are missing."""
        async with self._server.session() as session:
            installation = await self._installation()
            listed = await self._list(session)
            ready = [spare for template in self._templates for spare, _ in listed.ready(template)]
            removed = sum([await self._remove(session, it) for it in listed.spares if it not in ready])
            listed, wanted = await self._list_with_allotment(session)
            allowed = [spare for slots in wanted.values() for spare in slots]
            surplus = [spare for spare in ready if spare not in allowed]
            removed += sum([await self._remove(session, spare) for spare in surplus])
        missing = {template: sum(spare is None for spare in slots) for template, slots in wanted.items()}
        rounds = range(max(missing.values(), default=0))
        orders = [template for number in rounds for template in missing if missing[template] > number]
        return PruneResult(
            removed, [SpareOrder(spares.new_name(installation), template) for template in orders]
        )

    async def replenish(self, order: SpareOrder) -> None:
        """Make a spare, or find that an earlier attempt has made it."""
        async with self._server.locked(order.name) as session:
            listed = await self._list(session)
            if order.name in [spare.name for spare, _ in listed.ready(order.template)]:
                return
            state = listed.states.get(order.template)
            if state is None:
                raise DatabaseFaultError(
                    f"The template '{order.template}' does not exist or is open: close it (ALTER DATABASE"
                    " … ALLOW_CONNECTIONS false), for only then it cannot change."
                )
            for leftover in (spare for spare in listed.spares if spare.name == order.name):
                await drop_database(session, leftover.name, invalid=leftover.invalid)
            await self._make(session, order, state)

    async def _make(self, session: asyncpg.Connection, order: SpareOrder, state: Fingerprint) -> None:
        copy = Copy(order.template, order.name, self._strategy)
        cloned = await provisioning.clone(session, copy, self._sizes)
        await self._verify(session, order.name)
        if (await self._list(session)).states.get(order.template) != state:
            raise DatabaseFaultError(
                f"The template '{order.template}' was changed meanwhile.", retryable=True
            )
        mark = SpareMark(
            *(await self._installation(), order.template, state),
            size_bytes=cloned.size_bytes,
            template_generation=cloned.template_generation,
        )
        await execute(session, "COMMENT ON DATABASE %I IS %L", order.name, mark.comment)

    async def _verify(self, session: asyncpg.Connection, name: str) -> None:
        """Open a new spare for a moment, and prove that it accepts a connection and answers."""
        await execute(session, "ALTER DATABASE %I ALLOW_CONNECTIONS true", name)
        await provisioning.verify(self._server, name)
        await execute(session, "ALTER DATABASE %I ALLOW_CONNECTIONS false", name)
        if await count_sessions(session, name):
            raise DatabaseFaultError("Another session connected to the new spare.", retryable=True)

    async def _remove(self, session: asyncpg.Connection, spare: Spare) -> bool:
        """Drop a spare unless another session works on it or has changed it; returns whether it did."""
        async with spares.locked(session, spare.name) as acquired:
            if not acquired or spare not in (await self._list(session)).spares:
                return False
            try:
                await drop_database(session, spare.name, invalid=spare.invalid)
            except DatabaseFaultError:  # it stays in the report, and the next pass tries again
                return False
            return True

    async def _list(self, session: asyncpg.Connection) -> SpareList:
        return await spares.list_spares(session, await self._installation(), self._templates)

    async def _list_with_allotment(
        self, session: asyncpg.Connection
    ) -> tuple[SpareList, Mapping[str, Sequence[Spare | None]]]:
        """The spares that there are, and the slots that the limits allow."""
        listed = await self._list(session)
        read = [(template, await self._size(session, template)) for template in self._templates]
        sizes = {template: size for template, size in read if size is not None}
        return listed, allot(listed, sizes, self._limits)

    async def _size(self, session: asyncpg.Connection, template: str) -> int | None:
        """The template's size; None if it is missing or may not be read: then there are no spares of it."""
        try:
            return await self._sizes.of(session, template)
        except DatabaseFaultError as fault:
            if fault.retryable:
                raise
            return None


def allot(
    listed: SpareList, sizes: Mapping[str, int], limits: Limits
) -> Mapping[str, Sequence[Spare | None]]:
    """The slots for spares of each closed template that the limits allow: a spare that is ready, or None.

    Templates get slots in turn, so that the limits leave none of them without any. `sizes` are in bytes.
    """
    slots: dict[str, list[Spare | None]] = {template: [] for template in sizes if template in listed.states}
    ready = {template: iter(listed.ready(template)) for template in slots}
    free_bytes = limits.size_bytes
    count = sum(spare.mark is None for spare in listed.spares)
    for template in list(slots) * limits.of_template:
        spare, mark = next(ready[template], (None, None))
        size = mark.size_bytes if mark else sizes[template]
        if count < limits.in_all and size <= free_bytes:
            slots[template].append(spare)
            count, free_bytes = count + 1, free_bytes - size
    return slots


def _template_pool(listed: SpareList, template: str, wanted: int) -> TemplatePool:
    marks = [spare.mark for spare in listed.spares if spare.mark and spare.mark.template == template]
    ready = listed.ready(template)
    return TemplatePool(
        template, wanted, len(ready), len(marks) - len(ready), sum(it.size_bytes for it in marks)
    )
