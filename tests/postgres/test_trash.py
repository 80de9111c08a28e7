"""Databases of deleted instances: into the trash, out of it, dropped from there, or left."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

import asyncpg
import pytest

from ods.databases import activating, adoption, dropping, retiring
from ods.databases.dropping import drop, drop_obstacle
from ods.databases.errors import DatabaseFaultError, DisagreementError, NotOursError
from ods.databases.ownership import KnownOwner, Owner
from ods.databases.provisioning import CloneRequest, TemplateSizes, provision
from ods.databases.retiring import TrashJob
from ods.databases.server import Server
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.revisions import KnownRevisions, Revision, RevisionState
from ods.registry.instances.naming import is_trash_name, trash_name
from tests.postgres.owners import by_another, requesting
from tests.postgres.postgres_inspection import (
    exchanging_by_hand,
    exists,
    fingerprint,
    make_foreign,
    oid_of,
    persistent_sessions,
    row_of,
    still_due,
    until,
    waits_for_names,
)
from tests.servers import session

_INVALIDATE = "UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1"


@pytest.fixture
async def kept(owner: KnownOwner, admin: asyncpg.Connection) -> AsyncIterator[str]:
    """The name in the trash; whatever has it in the end is removed."""
    name = trash_name(owner.database_id)
    yield name
    await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
async def job(server: Server, wanted: CloneRequest, kept: str) -> TrashJob:
    """The delete of an instance that has its database."""
    async with server.fenced(wanted.owner) as fenced:
        await provision(fenced, wanted, TemplateSizes())
    return TrashJob(replace(requesting(wanted.owner), number=2), [wanted.database], kept)


async def put(server: Server, job: TrashJob, *, drop_invalid: bool = True) -> bool:
    async with server.fenced(job.owner) as fenced:
        return await retiring.retire(server, fenced, job, drop_invalid=drop_invalid)


async def take_out(server: Server, owner: KnownOwner, job: TrashJob, name: str) -> None:
    async with server.fenced(owner) as fenced:
        await activating.take_out(server, fenced, owner, job.trash, name)


async def purge(server: Server, job: TrashJob) -> bool:
    """Purge on the word of a registry that knows this job to have put the database there."""
    async with server.fenced(job.owner) as fenced:
        return await dropping.purge(fenced, job.owner, job.trash, before=still_due)


async def let_go(server: Server, job: TrashJob) -> None:
    async with server.fenced(job.owner) as fenced:
        await adoption.let_go(server, fenced, job.owner, job.names, published=True)


async def comment(admin: asyncpg.Connection, database: str, text: str | None) -> None:
    statement = await admin.fetchval(
        "SELECT format('COMMENT ON DATABASE %I IS %L', $1::text, $2::text)", database, text
    )
    await admin.execute(statement)


async def test_database_is_closed_under_another_name_with_its_mark_when_it_is_in_the_trash(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    (name,) = job.names
    await comment(admin, name, replace(job.owner, template_generation=4).comment)
    before = await row_of(admin, name)
    for _ in range(2):  # the second time there is nothing to do
        assert await put(server, job)
        after = await row_of(admin, job.trash)
        assert before is not None
        assert after is not None
        assert (after["oid"], after["datallowconn"]) == (before["oid"], False)
        assert not await exists(admin, name)
        marked = Owner.read(after["comment"])
        assert marked is not None
        assert (marked.mark, marked.revision, marked.trashed_name) == (
            job.owner.mark,
            job.owner.revision,
            name,
        )
        assert marked.template_generation == 4
        assert "trashedAt" in json.loads(after["comment"])
    assert is_trash_name(job.trash)


async def test_database_is_as_before_when_it_comes_back(
    server: Server, job: TrashJob, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    (name,) = job.names
    await comment(admin, name, replace(job.owner, template_generation=4).comment)
    async with session(postgres.dsn(name)) as user:
        await user.execute("CREATE TABLE treasure AS SELECT 42 AS answer")
    before = await row_of(admin, name)
    assert await put(server, job)
    undelete = requesting(job.owner)
    for _ in range(2):  # the second time there is nothing to do
        await take_out(server, undelete, job, name)
        after = await row_of(admin, name)
        assert before is not None
        assert after is not None
        assert {**after, "comment": before["comment"]} == dict(before)
        marked = Owner.read(after["comment"])
        assert marked is not None
        assert (marked.revision, marked.trashed_name) == (undelete.revision, None)
        assert marked.template_generation == 4
        assert not await exists(admin, job.trash)
    async with session(postgres.dsn(name)) as user:
        assert await user.fetchval("SELECT answer FROM treasure") == 42


async def test_database_gets_its_name_back_when_it_was_opened_and_marked_as_in_use_by_hand(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    (name,) = job.names
    assert await put(server, job)
    await comment(admin, job.trash, job.owner.comment)
    await admin.execute(f'ALTER DATABASE "{job.trash}" ALLOW_CONNECTIONS true')
    await take_out(server, requesting(job.owner), job, name)
    assert await exists(admin, name)
    assert not await exists(admin, job.trash)


async def test_database_gets_the_name_that_is_asked_for_when_its_own_was_taken(
    server: Server, job: TrashJob, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    (name,) = job.names
    assert await put(server, job)
    await make_foreign(admin, postgres.dsn(), name)
    before = await fingerprint(admin, name)
    with pytest.raises(NotOursError):
        await take_out(server, requesting(job.owner), job, name)
    assert await exists(admin, job.trash)
    await take_out(server, requesting(job.owner), job, f"{name}_again")
    assert await exists(admin, f"{name}_again")
    assert await fingerprint(admin, name) == before
    await admin.execute(f'DROP DATABASE "{name}_again"')


async def test_database_is_in_the_trash_when_many_sessions_keep_reconnecting(
    server: Server, job: TrashJob, admin: asyncpg.Connection, reader: str
) -> None:
    (name,) = job.names
    async with persistent_sessions(admin, reader, name, 20):
        assert await put(server, job)
    assert await exists(admin, job.trash)


async def test_database_keeps_its_name_and_the_reason_is_told_when_sessions_do_not_end(
    server: Server, job: TrashJob, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    (name,) = job.names
    before = await row_of(admin, name)
    async with session(postgres.dsn(name)) as superuser:
        with pytest.raises(DatabaseFaultError, match="close the sessions of superusers by hand"):
            await put(server, job)
        assert await superuser.fetchval("SELECT 1") == 1
    assert await row_of(admin, name) == before


async def test_nothing_is_kept_when_the_instance_has_no_database(
    server: Server, owner: KnownOwner, database: str, kept: str
) -> None:
    assert not await put(server, TrashJob(replace(owner, number=2), [database], kept))


async def test_database_is_dropped_when_its_drop_was_interrupted_before_the_delete(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    (name,) = job.names
    await admin.execute(_INVALIDATE, name)
    assert not await put(server, job)
    assert not await exists(admin, name)
    assert not await exists(admin, job.trash)


async def test_database_stays_when_its_drop_was_interrupted_and_no_client_has_requested_a_delete(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    (name,) = job.names
    await admin.execute(_INVALIDATE, name)
    async with server.fenced(job.owner) as fenced:
        with pytest.raises(DatabaseFaultError):
            await retiring.retire(server, fenced, job)
    assert await exists(admin, name)


@pytest.mark.parametrize("by_hand", ["AAA {}", "{} by hand"])  # before and after its name
async def test_nothing_comes_back_when_the_operator_has_renamed_the_database_in_the_trash(
    server: Server, job: TrashJob, admin: asyncpg.Connection, by_hand: str
) -> None:
    (name,) = job.names
    assert await put(server, job)
    await admin.execute(f'ALTER DATABASE "{job.trash}" RENAME TO "{by_hand.format(name)}"')
    with pytest.raises(DisagreementError, match="carries its mark"):
        await take_out(server, requesting(job.owner), job, name)
    await admin.execute(f'ALTER DATABASE "{by_hand.format(name)}" RENAME TO "{job.trash}"')


async def test_database_of_a_failed_rename_comes_back_under_the_name_of_the_registry(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    (name,) = job.names
    await admin.execute(f'ALTER DATABASE "{name}" RENAME TO "{name}_new"')
    assert await put(server, replace(job, names=[name, f"{name}_new"]))
    await take_out(server, requesting(job.owner), job, name)
    assert await exists(admin, name)


@pytest.mark.parametrize("text", [None, "mine"])
async def test_foreign_database_is_untouched_when_it_has_the_name_of_the_instances(
    server: Server,
    owner: KnownOwner,
    database: str,
    kept: str,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    text: str | None,
) -> None:
    await make_foreign(admin, postgres.dsn(), database, text)
    before = await fingerprint(admin, database)
    job = TrashJob(replace(owner, number=2), [database], kept)
    with pytest.raises(NotOursError):
        await put(server, job)
    assert await fingerprint(admin, database) == before


async def test_nothing_is_moved_when_the_database_was_published_later_than_the_registry_knows(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    (name,) = job.names
    await comment(admin, name, by_another(job.owner).comment)
    before = await row_of(admin, name)
    with pytest.raises(DisagreementError, match="The registry does not know the state"):
        await put(server, job)
    assert await row_of(admin, name) == before


async def test_nothing_is_moved_when_the_tenant_has_renamed_the_database_by_hand(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    (name,) = job.names
    await admin.execute(f'ALTER DATABASE "{name}" RENAME TO "{name}_by_hand"')
    with pytest.raises(DisagreementError, match="carries its mark"):
        await put(server, job)
    await admin.execute(f'ALTER DATABASE "{name}_by_hand" RENAME TO "{name}"')
    assert await put(server, job)


async def test_both_are_untouched_when_a_foreign_database_has_the_name_in_the_trash(
    server: Server, job: TrashJob, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    await make_foreign(admin, postgres.dsn(), job.trash)
    before = [await fingerprint(admin, name) for name in (*job.names, job.trash)]
    with pytest.raises(NotOursError):
        await put(server, job)
    with pytest.raises(NotOursError):
        await purge(server, job)
    assert [await fingerprint(admin, name) for name in (*job.names, job.trash)] == before


async def test_both_are_untouched_when_an_earlier_database_of_the_instance_has_the_name_in_the_trash(
    server: Server, job: TrashJob, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    """It holds what the instance had by a registry that was restored since: it must not be removed."""
    await make_foreign(admin, postgres.dsn(), job.trash)
    earlier = replace(job.owner, number=2, database_id=str(uuid.uuid4()), trashed_name=job.names[0])
    await comment(admin, job.trash, earlier.comment)
    before = [await fingerprint(admin, name) for name in (*job.names, job.trash)]
    with pytest.raises(DisagreementError, match="Give that one another name") as told:
        await put(server, job)
    assert "emove" not in told.value.reason.replace("moved", "")
    assert [await fingerprint(admin, name) for name in (*job.names, job.trash)] == before


async def test_database_is_gone_when_it_is_purged(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    assert await put(server, job)
    for is_there in (True, False):  # the second time there is nothing to do
        assert await purge(server, job) is is_there
        assert not await exists(admin, job.trash)


async def test_nothing_is_dropped_when_the_database_in_the_trash_was_opened(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    assert await put(server, job)
    await admin.execute(f'ALTER DATABASE "{job.trash}" ALLOW_CONNECTIONS true')
    with pytest.raises(DisagreementError, match="was opened"):
        await purge(server, job)
    assert await exists(admin, job.trash)


@pytest.mark.parametrize(
    "statement", ['ALTER DATABASE "{}" ALLOW_CONNECTIONS true', 'COMMENT ON DATABASE "{}" IS NULL']
)
async def test_nothing_is_dropped_when_an_operator_has_opened_or_let_go_what_was_found_closed(
    server: Server, job: TrashJob, admin: asyncpg.Connection, statement: str
) -> None:
    """The worker was suspended in between."""
    assert await put(server, job)

    async def act() -> None:
        await admin.execute(statement.format(job.trash))

    async with server.fenced(job.owner) as fenced:
        with pytest.raises(DatabaseFaultError, match="Nothing was done") as fault:
            await dropping.purge(fenced, job.owner, job.trash, before=act)
    assert fault.value.retryable
    assert await exists(admin, job.trash)
    with pytest.raises((DisagreementError, NotOursError)):
        await purge(server, job)


async def test_purge_goes_on_when_its_drop_was_interrupted(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    assert await put(server, job)
    await admin.execute(_INVALIDATE, job.trash)
    with pytest.raises(DisagreementError, match="nothing can come back"):
        await take_out(server, requesting(job.owner), job, job.names[0])
    await purge(server, job)
    assert not await exists(admin, job.trash)


@pytest.mark.parametrize("kind", ["none", "foreign", "another mark", "another installation"])
async def test_nothing_is_dropped_when_the_database_in_the_trash_is_not_the_instances(
    server: Server, job: TrashJob, admin: asyncpg.Connection, kind: str
) -> None:
    trashed = replace(job.owner, number=2, trashed_name=job.names[0], installation="original")
    texts = {
        "none": None,
        "foreign": "mine",
        "another mark": replace(trashed, mark="00000000-0000-4000-8000-000000000000").comment,
        "another installation": trashed.comment,
    }
    assert await put(server, job)
    await comment(admin, job.trash, texts[kind])
    copy = replace(job, owner=replace(job.owner, installation="copy"))
    with pytest.raises(NotOursError, match="`ods drift` tells which comment it should have"):
        await purge(server, copy)
    assert await exists(admin, job.trash)


@pytest.mark.parametrize("kind", ["published", "trashed later", "not in the trash by its comment"])
async def test_nothing_is_dropped_when_the_comment_is_later_than_the_registry_or_says_otherwise(
    server: Server, job: TrashJob, admin: asyncpg.Connection, kind: str
) -> None:
    texts = {
        "published": by_another(job.owner).comment,
        "trashed later": replace(by_another(job.owner), trashed_name=job.names[0]).comment,
        "not in the trash by its comment": job.owner.comment,
    }
    assert await put(server, job)
    await comment(admin, job.trash, texts[kind])
    with pytest.raises(DisagreementError, match="Nothing was dropped"):
        await purge(server, job)
    assert await exists(admin, job.trash)


async def test_nothing_is_dropped_when_the_database_came_back_and_the_registry_is_of_before(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    assert await put(server, job)
    undelete = requesting(job.owner)
    await take_out(server, undelete, job, job.names[0])
    with pytest.raises(DisagreementError, match="carries its mark"):
        await purge(server, job)
    later = TrashJob(replace(requesting(undelete), number=4), job.names, job.trash)
    assert await put(server, later)
    with pytest.raises(DisagreementError, match="its comment says otherwise"):
        await purge(server, job)
    assert await exists(admin, later.trash)
    await purge(server, later)
    assert not await exists(admin, later.trash)


async def test_delete_drops_nothing_when_the_registry_is_of_before_the_trash(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    assert await put(server, job)
    async with server.fenced(job.owner) as fenced:
        with pytest.raises(DisagreementError, match="carries its mark"):
            await drop(fenced, job.owner, job.names, published=True, before=still_due)
    assert await exists(admin, job.trash)


async def test_delete_drops_what_a_failed_one_has_left_in_the_trash(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    assert await put(server, job)
    async with server.fenced(job.owner) as fenced:
        await drop(fenced, job.owner, [*job.names, job.trash], published=True, before=still_due)
    assert not await exists(admin, job.trash)


@pytest.mark.parametrize("other", ["from before", "copied by hand", "half dropped"])
async def test_delete_goes_on_when_the_database_is_in_the_trash_and_another_one_is_not_the_instances(
    server: Server, job: TrashJob, admin: asyncpg.Connection, other: str
) -> None:
    """Its worker died after the move; each retry finds the database in the trash."""
    (name,) = job.names
    assert await put(server, job)
    earlier = replace(job.owner, database_id=str(uuid.uuid4()), number=1)
    void = Revision(str(earlier.revision), earlier.database_id, RevisionState.VOID)
    known = KnownRevisions((*job.owner.known.revisions, void))
    job = replace(job, owner=replace(job.owner, known=known))
    await admin.execute(f'CREATE DATABASE "{name}_other"')
    match other:
        case "from before":
            await comment(admin, f"{name}_other", earlier.comment)
        case "copied by hand":
            await comment(admin, f"{name}_other", job.owner.comment)
        case _:
            await comment(admin, f"{name}_other", by_another(earlier).comment)
            await admin.execute(_INVALIDATE, f"{name}_other")
    try:
        assert await put(server, job)
        drops = partial(drop, published=True, before=still_due)
        async with server.fenced(job.owner) as fenced:
            if other == "copied by hand":
                with pytest.raises(DisagreementError, match="Both"):
                    await drops(fenced, job.owner, [*job.names, job.trash])
            else:
                await drops(fenced, job.owner, [*job.names, job.trash])
        assert await exists(admin, job.trash) is (other == "copied by hand")
        assert await exists(admin, f"{name}_other")
    finally:
        await admin.execute(f'DROP DATABASE "{name}_other"')


@pytest.mark.parametrize("state", [None, RevisionState.INTENDED, RevisionState.VOID])
async def test_nothing_is_done_when_the_instance_has_got_another_database_since_its_own_is_in_the_trash(
    server: Server, job: TrashJob, admin: asyncpg.Connection, state: RevisionState | None
) -> None:
    """A reset was not recorded, or the registry restored; or the server, to before what is in the trash."""
    (name,) = job.names
    assert await put(server, job)
    later = by_another(replace(job.owner, database_id=str(uuid.uuid4())))
    known = job.owner.known.revisions
    if state is not None:
        known = (*known, Revision(str(later.revision), later.database_id, state))
    if state is RevisionState.VOID:
        known = tuple(replace(one, state=state) for one in known)
    job = replace(job, owner=replace(job.owner, known=KnownRevisions(known)))
    await admin.execute(f'CREATE DATABASE "{name}_later"')
    await comment(admin, f"{name}_later", later.comment)
    try:
        with pytest.raises(DisagreementError, match=f"'{name}_later' carries the mark of this instance"):
            await put(server, job)
        async with server.fenced(job.owner) as fenced:
            with pytest.raises(DisagreementError, match=f"'{name}_later' carries the mark of this instance"):
                await drop(fenced, job.owner, [*job.names, job.trash], published=True, before=still_due)
        assert await exists(admin, job.trash)
    finally:
        await admin.execute(f'DROP DATABASE "{name}_later"')


async def test_delete_drops_nothing_when_a_later_one_has_moved_the_database_to_the_trash(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    """It is one after which the registry was restored, so that it does not know the later one."""
    assert await put(server, replace(job, owner=requesting(job.owner)))
    names = [*job.names, job.trash]
    async with server.fenced(job.owner) as fenced:
        with pytest.raises(DisagreementError, match=r"does not know the state .* Nothing was done to it"):
            await drop(fenced, job.owner, names, published=True, before=still_due)
        assert await drop_obstacle(fenced, job.owner, names, drops=True) is not None
    assert await exists(admin, job.trash)


async def test_delete_drops_nothing_when_an_undelete_that_did_not_end_has_had_the_database(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    assert await put(server, replace(job, put_back=True))
    names = [*job.names, job.trash]
    async with server.fenced(job.owner) as fenced:
        with pytest.raises(DisagreementError, match="Nothing was done to it"):
            await drop(fenced, job.owner, names, published=True, before=still_due)
        assert await drop_obstacle(fenced, job.owner, names) is None  # where it can come back from
    assert await exists(admin, job.trash)


async def test_nothing_is_done_when_two_databases_carry_the_mark(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    (name,) = job.names
    assert await put(server, job)
    await admin.execute(f'CREATE DATABASE "{name}"')
    await comment(admin, name, job.owner.comment)
    with pytest.raises(DisagreementError, match="Both"):
        await take_out(server, requesting(job.owner), job, name)
    with pytest.raises(DisagreementError, match="Both"):
        await put(server, job)
    with pytest.raises(DisagreementError, match="Both"):
        await purge(server, job)
    assert await exists(admin, name)
    assert await exists(admin, job.trash)


async def test_nothing_comes_back_when_no_database_carries_the_mark(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    assert await put(server, job)
    await admin.execute(f'DROP DATABASE "{job.trash}"')
    with pytest.raises(DatabaseFaultError, match="nothing can come back"):
        await take_out(server, requesting(job.owner), job, job.names[0])


@pytest.mark.parametrize("own", ["lost", "half dropped"])
@pytest.mark.parametrize("left", ["a version", "what was not published"])
async def test_no_purge_is_advised_when_the_own_database_is_lost_and_another_one_has_its_data(
    server: Server, job: TrashJob, admin: asyncpg.Connection, own: str, left: str
) -> None:
    assert await put(server, job)
    another = job.owner.staging_name
    if left == "a version":
        another = trash_name(str(uuid.uuid4()))
    await admin.execute(f'CREATE DATABASE "{another}"')
    try:
        if left == "a version":
            version = replace(job.owner, database_id=str(uuid.uuid4()), trashed_name=job.names[0])
            await comment(admin, another, version.comment)
        if own == "lost":
            await admin.execute(f'DROP DATABASE "{job.trash}"')
        else:
            await admin.execute(_INVALIDATE, job.trash)
        with pytest.raises(DatabaseFaultError, match=f"'{another}'. `ods drift` tells how") as told:
            await take_out(server, requesting(job.owner), job, job.names[0])
        assert "Purge it" not in told.value.reason
        assert "or purge" not in told.value.reason
        assert "would drop it as well" in told.value.reason
    finally:
        await admin.execute(f'DROP DATABASE "{another}"')


async def test_failed_undelete_is_purged_when_it_is_in_the_trash_again(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    assert await put(server, job)
    undelete = requesting(job.owner)
    await take_out(server, undelete, job, job.names[0])
    assert await put(server, replace(job, owner=replace(undelete, number=3)), drop_invalid=False)
    assert await exists(admin, job.trash)
    await purge(server, replace(job, owner=undelete))
    assert not await exists(admin, job.trash)


@pytest.mark.parametrize("in_trash", [False, True])
async def test_database_stays_open_and_without_a_mark_when_it_is_let_go(
    server: Server, job: TrashJob, admin: asyncpg.Connection, *, in_trash: bool
) -> None:
    (name,) = job.names
    if in_trash:  # an earlier delete has failed after it had moved the database
        assert await put(server, job)
    for _ in range(2):  # the second time there is nothing to do
        async with server.fenced(job.owner) as fenced:
            await adoption.let_go(server, fenced, job.owner, [name, job.trash], published=True)
        row = await row_of(admin, name)
        assert row is not None
        assert (row["datallowconn"], row["comment"]) == (True, None)


async def test_database_in_the_trash_keeps_its_mark_when_its_name_was_taken_before_it_is_let_go(
    server: Server, job: TrashJob, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    (name,) = job.names
    assert await put(server, job)
    await make_foreign(admin, postgres.dsn(), name)
    async with server.fenced(job.owner) as fenced:
        with pytest.raises(NotOursError):
            await adoption.let_go(server, fenced, job.owner, [name, job.trash], published=True)
    row = await row_of(admin, job.trash)
    assert row is not None
    assert row["comment"] is not None


async def test_sessions_go_on_when_the_database_is_let_go(
    server: Server, job: TrashJob, reader: str, admin: asyncpg.Connection
) -> None:
    (name,) = job.names
    async with session(f"{reader}/{name}") as user:
        async with server.fenced(job.owner) as fenced:
            await adoption.let_go(server, fenced, job.owner, [name], published=True)
        assert await user.fetchval("SELECT 1") == 1
    assert await exists(admin, name)


async def test_foreign_database_is_untouched_when_it_would_be_let_go(
    server: Server, owner: KnownOwner, database: str, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    await make_foreign(admin, postgres.dsn(), database, "mine")
    before = await fingerprint(admin, database)
    async with server.fenced(owner) as fenced:
        with pytest.raises(NotOursError):
            await adoption.let_go(server, fenced, owner, [database], published=True)
    assert await fingerprint(admin, database) == before


async def test_no_other_database_goes_to_the_trash_when_names_are_exchanged_by_hand_meanwhile(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    """It would be dropped from there when its time is over."""
    (name,) = job.names
    async with exchanging_by_hand(admin, name) as (own, other):
        trashing = asyncio.create_task(put(server, job))
        await until(lambda: waits_for_names(admin))
    with pytest.raises(DatabaseFaultError, match="has changed which database") as fault:
        await trashing
    assert fault.value.retryable
    assert not await exists(admin, job.trash)
    assert (await oid_of(admin, name), await oid_of(admin, f"{name}_aside")) == (other, own)
    now = await row_of(admin, name)
    assert now is not None
    assert (now["comment"], now["datallowconn"]) == (None, True)
    with pytest.raises(DisagreementError, match="_aside"):
        await put(server, job)


async def test_mark_stays_when_names_are_exchanged_by_hand_while_a_database_is_let_go(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    (name,) = job.names
    async with exchanging_by_hand(admin, name) as (own, _):
        letting = asyncio.create_task(let_go(server, job))
        await until(lambda: waits_for_names(admin))
    with pytest.raises(DatabaseFaultError):
        await letting
    aside = await row_of(admin, f"{name}_aside")
    assert aside is not None
    assert aside["oid"] == own
    assert job.owner.owns(aside["comment"])


async def test_nothing_passes_for_missing_when_the_instance_has_a_later_database_of_another_name(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    """The registry was restored to before a rename and a reset; what that replaced was purged since."""
    (name,) = job.names
    later = replace(job.owner, number=4, database_id=str(uuid.uuid4()))
    await admin.execute(f'ALTER DATABASE "{name}" RENAME TO "{name}_aside"')
    await comment(admin, f"{name}_aside", later.comment)
    with pytest.raises(DisagreementError, match="_aside"):
        await put(server, job)
    with pytest.raises(DisagreementError, match="_aside"):
        await let_go(server, job)
    with pytest.raises(DisagreementError, match="_aside"):
        await purge(server, job)
    async with server.fenced(job.owner) as fenced:
        with pytest.raises(DisagreementError, match="_aside"):
            await drop(fenced, job.owner, job.names, published=True, before=still_due)
    assert await exists(admin, f"{name}_aside")


async def test_purge_is_done_when_the_only_other_databases_are_those_of_resets(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    """What the instance had before, or was to get, is in the trash, or under a private name."""
    (name,) = job.names
    before = replace(job.owner, number=2, database_id=str(uuid.uuid4()), trashed_name=name)
    aside = trash_name(str(uuid.uuid4()))
    await admin.execute(f'ALTER DATABASE "{name}" RENAME TO "{aside}"')
    await comment(admin, aside, before.comment)
    try:
        assert not await purge(server, job)
    finally:
        await admin.execute(f'DROP DATABASE "{aside}"')


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("half_dropped", [False, True])
async def test_nothing_passes_for_deleted_when_only_what_the_instance_had_before_a_reset_is_left(
    server: Server, job: TrashJob, admin: asyncpg.Connection, *, half_dropped: bool, renamed: bool
) -> None:
    """Whatever name a DBA has given it."""
    (name,) = job.names
    aside = f"{name}_aside" if renamed else trash_name(str(uuid.uuid4()))
    before = replace(job.owner, number=2, database_id=str(uuid.uuid4()), trashed_name=name)
    if half_dropped:
        await admin.execute(f'CREATE DATABASE "{aside}"')
        await admin.execute(_INVALIDATE, name)
    else:
        await admin.execute(f'ALTER DATABASE "{name}" RENAME TO "{aside}"')
    await comment(admin, aside, before.comment)
    try:
        advice = f"`ods recover --apply --choose {aside}`"
        with pytest.raises(DisagreementError, match=advice):
            await put(server, job)
        if not half_dropped:
            with pytest.raises(DisagreementError, match=advice):
                await let_go(server, job)
        assert await exists(admin, aside)
        assert await exists(admin, name) is half_dropped
        if not half_dropped:
            async with server.fenced(job.owner) as fenced:  # an undelete that does not end is undone
                assert not await retiring.retire(server, fenced, replace(job, put_back=True))
        await admin.execute(_INVALIDATE, aside)  # and of this, nothing is left either
        assert not await put(server, job)
    finally:
        await admin.execute(f'DROP DATABASE "{aside}"')


async def test_instance_can_be_purged_when_its_database_is_half_dropped_outside_the_trash(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    """An undelete had taken it out, and failed; nothing of it can come back."""
    assert await put(server, job)
    await take_out(server, requesting(job.owner), job, job.names[0])
    await admin.execute(_INVALIDATE, job.names[0])
    assert not await purge(server, job)


async def test_version_is_gone_when_an_earlier_try_has_dropped_it_and_the_instance_is_in_use(
    server: Server, job: TrashJob, admin: asyncpg.Connection
) -> None:
    version = replace(job.owner, database_id=str(uuid.uuid4()))
    async with server.fenced(version) as fenced:
        assert not await dropping.purge(fenced, version, job.trash, replaced=True, before=still_due)
    assert await exists(admin, *job.names)
