"""A database whose comment this release cannot read is not ours: no job touches it, nor takes it for free."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import asyncpg
import pytest

from ods.databases import activating, adoption, dropping, replacing, retiring
from ods.databases.errors import DisagreementError, NotOursError
from ods.databases.left_names import record_left
from ods.databases.lookup import has_database, published_as
from ods.databases.ownership import KnownOwner
from ods.databases.provisioning import CloneRequest, TemplateSizes, provision
from ods.databases.replacing import Exchange
from ods.databases.retiring import TrashJob
from ods.databases.server import Server
from ods.registry.instances.naming import trash_name
from tests.postgres.postgres_inspection import UNREADABLE, comment_on, fingerprint, unreadable


@dataclass(frozen=True)
class Case:
    """An instance, of whose database the comment was changed."""

    server: Server
    session: asyncpg.Connection
    request: CloneRequest

    @property
    def owner(self) -> KnownOwner:
        return self.request.owner

    @property
    def database(self) -> str:
        return self.request.database

    @property
    def trash(self) -> str:
        return trash_name(self.owner.database_id)

    @property
    def exchange(self) -> Exchange:
        owner = replace(self.owner, job_id="ResetInstanceJob-1-2", number=2)
        names = (self.database, "ods_reset_other", self.trash)
        return Exchange(owner, owner.of_database(owner.mark), *names, from_trash=False)

    @property
    def into_trash(self) -> TrashJob:
        return TrashJob(replace(self.owner, number=2), [self.database], self.trash)


Step: TypeAlias = Callable[[Case], Awaitable[object]]


async def still_due() -> None:
    """It is."""


JOBS: Mapping[str, Step] = {
    "drop": lambda it: dropping.drop(it.session, it.owner, [it.database], published=True, before=still_due),
    "trash": lambda it: retiring.retire(it.server, it.session, it.into_trash, drop_invalid=True),
    "detach": lambda it: adoption.let_go(it.server, it.session, it.owner, [it.database], published=True),
    "rename": lambda it: activating.rename(
        it.server, it.session, it.owner, it.database, f"{it.database}_aside"
    ),
    "rename to its name": lambda it: activating.rename(it.server, it.session, it.owner, "away", it.database),
    "undelete": lambda it: activating.take_out(it.server, it.session, it.owner, it.trash, it.database),
    "reset": lambda it: replacing.require_current(it.session, it.exchange),
    "create": lambda it: provision(it.session, it.request, TemplateSizes()),
}
IN_TRASH: Mapping[str, Step] = {
    "purge": lambda it: dropping.purge(it.session, it.owner, it.trash, before=still_due),
    "undelete": lambda it: activating.take_out(it.server, it.session, it.owner, it.trash, it.database),
}
PASSES: Mapping[str, Step] = {
    "left names": lambda it: record_left(it.session, it.owner, None),
    "closed by a drop": lambda it: dropping.open_again(it.session, it.owner, [it.database]),
    "leftovers of a clone": lambda it: dropping.drop_staging(it.session, it.owner),
    "leftovers of resets": lambda it: replacing.drop_unknown(it.session, it.owner, [], deleted=True),
    "undo of a rename": lambda it: activating.rename_back(
        it.server, it.session, it.owner, f"{it.database}_aside", it.database
    ),
}


@pytest.fixture
async def case(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, change: str
) -> AsyncIterator[Case]:
    async with server.fenced(wanted.owner) as session:
        await provision(session, wanted, TemplateSizes())
        await comment_on(admin, wanted.database, unreadable(wanted.owner.comment, change))
        yield Case(server, session, wanted)


@pytest.mark.parametrize("change", UNREADABLE)
@pytest.mark.parametrize("job", JOBS)
async def test_no_job_touches_it_when_it_has_the_name_of_the_instance_s(
    case: Case, admin: asyncpg.Connection, job: str
) -> None:
    before = await fingerprint(admin, case.database)
    with pytest.raises((NotOursError, DisagreementError), match=case.database):
        await JOBS[job](case)
    assert await fingerprint(admin, case.database) == before


@pytest.mark.parametrize("change", UNREADABLE)
@pytest.mark.parametrize("job", IN_TRASH)
async def test_no_job_touches_it_when_it_has_a_name_in_the_trash(
    case: Case, admin: asyncpg.Connection, job: str
) -> None:
    await admin.execute(f'ALTER DATABASE "{case.database}" RENAME TO "{case.trash}"')
    await admin.execute(f'ALTER DATABASE "{case.trash}" ALLOW_CONNECTIONS false')
    before = await fingerprint(admin, case.trash)
    try:
        with pytest.raises((NotOursError, DisagreementError), match=case.trash):
            await IN_TRASH[job](case)
        assert await fingerprint(admin, case.trash) == before
    finally:
        await admin.execute(f'DROP DATABASE "{case.trash}"')


@pytest.mark.parametrize("change", UNREADABLE)
@pytest.mark.parametrize("work", PASSES)
async def test_no_pass_touches_it(case: Case, admin: asyncpg.Connection, work: str) -> None:
    await admin.execute(f'ALTER DATABASE "{case.database}" ALLOW_CONNECTIONS false')
    before = await fingerprint(admin, case.database)
    await PASSES[work](case)
    assert await fingerprint(admin, case.database) == before
    assert not await has_database(case.session, case.owner)
    assert await published_as(case.session, case.owner, case.database) is None


@pytest.mark.parametrize("change", UNREADABLE)
async def test_it_is_not_handed_over_until_its_comment_is_removed(
    case: Case, admin: asyncpg.Connection
) -> None:
    before = await fingerprint(admin, case.database)
    found = await adoption.adopt(case.session, case.owner, case.database, [])
    assert found is not None
    assert "has a comment, which may mean something" in str(found.obstacle)
    assert await fingerprint(admin, case.database) == before
    await comment_on(admin, case.database, None)
    found = await adoption.adopt(case.session, case.owner, case.database, [])
    assert found is not None
    assert (found.adopted, found.obstacle) == (True, None)
