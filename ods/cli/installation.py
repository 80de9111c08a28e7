"""`ods installation …`: which installation a registry and a server belong to, without the API."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from ods.cli.options import DEFAULT_DATA_DIR, AsJson, DataDir, Yes
from ods.cli.output import say, show_json, show_members

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from ods.cli.registry_access import RegistryAccess
    from ods.registry.installation import InstallationState
    from ods.registry.instances.cancelling import JobCancellations
    from ods.registry.instances.jobs import InstanceJob
    from ods.tenants.installation_check import SameInstallation

app = typer.Typer(no_args_is_help=True)

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class _Report:
    """What registry and server say.

    Attributes:
        state: the registry's installation.
        server: the server's system identifier; None while it cannot be reached.
        own: how many databases on the server are the installation's, by their comments.
        others: other installations that have databases on the server.
        obstacle: why nothing may be changed; None if it may.
        same: another tenant whose registry has the same id.
        unasked: other tenants whose registry has not said which installation it is.
    """

    state: "InstallationState"
    server: str | None
    own: int
    others: list[str]
    obstacle: str | None
    same: "SameInstallation | None"
    unasked: list[str]

    @property
    def may_be_copy(self) -> bool:
        """Whether the registry may be a copy, by what it and those of other tenants say."""
        return self.state.obstacle is not None or (self.same is not None and not self.same.is_copy)

    @property
    def row(self) -> dict[str, Any]:
        """The members that the commands show."""
        return {
            "installation": self.state.id,
            "registry": str(self.state.here),
            "confirmedRegistry": str(self.state.confirmed),
            "server": self.server or "cannot be reached",
            "confirmedServer": self.state.server,
            "databases": self.own,
            "otherInstallations": ", ".join(self.others) or "none",
            "confirmedInstallations": ", ".join(sorted(self.state.neighbours)) or "none",
            "obstacle": self.obstacle or "none",
        }


@app.command()
def show(*, as_json: AsJson = False, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Show which installation this is, and what must be confirmed before anything is changed."""
    found = _work(data_dir, _inspect)
    if as_json:
        show_json(found.row)
    else:
        show_members(found.row)


@app.command()
def confirm(*, yes: Yes = False, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Confirm that this registry goes on as its installation, on this server, beside the others there.

    The jobs that would drop a database are cancelled, and nothing in the trash is dropped for seven days:
    in a restored registry, they may have been cancelled before.
    """
    from ods.embedded.errors import CommandError  # noqa: PLC0415 - as in `_work`

    found = _work(data_dir, _inspect)
    show_members(found.row)
    if found.same is not None:
        raise CommandError(found.same.obstacle)
    if found.unasked:
        say(
            f"The registry of {', '.join(found.unasked)} is away: whether it is this installation as well is"
            " not known. Workers ask it until it answers."
        )
    if not yes:
        question = "Is there no other service on the original of this registry, and may this one go on?"
        typer.confirm(question, abort=True, err=True)

    async def confirmed(engine: "AsyncEngine", access: "RegistryAccess") -> "Sequence[InstanceJob]":
        from ods.tenants.confirmation import confirm as record  # noqa: PLC0415 - as in `_work`

        cancellations = _cancellations(engine, access.tenant)
        return await record(engine, cancellations, found.state, found.server, found.others)

    for job in _work(data_dir, confirmed, "ods installation confirm"):
        say(
            f"Cancelled {job.job_id}, which would have dropped a database of '{job.name}'. Ask its client:"
            " unless `ods drift` says that the database is gone, the job may have been cancelled since, and"
            " the database may be in use."
        )
    say("Nothing that is in the trash now is dropped within seven days, unless you purge it.")
    say("Confirmed. API and workers go on within a few seconds.")


@app.command()
def new(*, yes: Yes = False, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Make this registry, a copy, an installation of its own: no database on the server is its own then.

    Refused for what is no copy by all that registry and server tell.
    """
    from ods.embedded.errors import CommandError  # noqa: PLC0415 - as in `_work`

    found = _work(data_dir, _inspect)
    show_members(found.row)
    if found.same is not None and found.same.is_same_registry:
        raise CommandError(found.same.obstacle)
    if not found.may_be_copy and found.server is None:
        raise CommandError("Start the server of ODS_MASTER_DSN: its databases tell whether this is a copy.")
    if not found.may_be_copy and found.own:
        raise CommandError(
            f"The registry is where it was confirmed, and {found.own} databases on the server are its own:"
            " this is no copy. It could not manage them any more, so nothing was done. Only if the whole"
            " server is a copy as well, do what docs/operations/staging-copy.md says: the marks are taken"
            " off the databases first."
        )
    if not yes:
        question = "Is this registry a copy, which shall take over no database of the original?"
        if found.own:
            are_own = (
                f"{found.own} databases on the server are this installation's, and would not be any more."
            )
            question = f"{are_own} {question}"
        typer.confirm(question, abort=True, err=True)

    async def renewed(engine: "AsyncEngine", _: "RegistryAccess") -> str:
        from ods.registry.installation import InstallationStore  # noqa: PLC0415 - as in `_work`

        return await InstallationStore(engine).renew()

    say(f"This registry is the installation {_work(data_dir, renewed, 'ods installation new')} now.")


@app.command()
def accept_store(*, yes: Yes = False, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Use the store of backups at ODS_BACKUP_URL from now on, and no other registry of this installation."""
    # Imported here: it takes half a second, which other commands need not wait for.
    from ods.backups.errors import BackupFaultError  # noqa: PLC0415
    from ods.backups.storage import BackupStore  # noqa: PLC0415
    from ods.cli.registry_access import RegistryAccess  # noqa: PLC0415
    from ods.embedded.errors import CommandError  # noqa: PLC0415
    from ods.registry.backups.stores import BackupStores  # noqa: PLC0415
    from ods.tenants.known_store import accept_store as accept  # noqa: PLC0415

    access = RegistryAccess.find(data_dir)
    if not access.backup_url:
        raise CommandError("There is no store of backups: ODS_BACKUP_URL is not set.")

    async def accepted(store: BackupStore) -> None:
        async with access.connected() as engine:
            await accept(store, BackupStores(engine), access.tenant)
            await _record(engine, "ods installation accept-store")

    try:
        store = BackupStore(access.backup_url)
        if not yes:
            question = (
                f"Is {store.location()} the right store, with its disk mounted, if it is a folder; and has"
                " every copy of this registry been stopped that uses it?"
            )
            typer.confirm(question, abort=True, err=True)
        asyncio.run(accepted(store))
    except BackupFaultError as fault:
        raise CommandError(fault.reason) from None
    say(f"Backups are made in {store.location()} again.")


def _work(
    data_dir: Path,
    work: "Callable[[AsyncEngine, RegistryAccess], Awaitable[_Result]]",
    command: str | None = None,
) -> _Result:
    """The result of `work` on the registry; a `command` that changes it is recorded in the audit trail."""
    # Imported here: it takes half a second, which other commands need not wait for.
    from ods.cli.registry_access import RegistryAccess  # noqa: PLC0415

    access = RegistryAccess.find(data_dir)

    async def done() -> _Result:
        async with access.connected() as engine:
            result = await work(engine, access)
            if command is not None:
                await _record(engine, command)
            return result

    return asyncio.run(done())


def _cancellations(engine: "AsyncEngine", tenant: str) -> "JobCancellations":
    from ods.registry.installation import InstallationStore  # noqa: PLC0415 - as above
    from ods.registry.instances.cancelling import JobCancellations  # noqa: PLC0415 - as above
    from ods.registry.instances.jobs import ExecutionPolicy  # noqa: PLC0415 - as above
    from ods.registry.instances.steps import JobFactory  # noqa: PLC0415 - as above

    # No job is carried out here.
    policy = ExecutionPolicy(
        ddl_queue="",
        ddl_attempts=0,
        heartbeat_timeout=0,
        decision_window=0,
        outage_timeout=0,
        backup_queue="",
    )
    return JobCancellations(engine, JobFactory(InstallationStore(engine), policy, tenant))


async def _record(engine: "AsyncEngine", command: str) -> None:
    from ods.cli.registry_access import operator  # noqa: PLC0415 - as above
    from ods.registry.audit import AuditTrail, command_entry  # noqa: PLC0415 - as above

    await AuditTrail(engine).record(command_entry(command, operator()))


async def _inspect(engine: "AsyncEngine", access: "RegistryAccess") -> _Report:
    from ods.databases.errors import DatabaseFaultError  # noqa: PLC0415 - as above
    from ods.databases.server import Server  # noqa: PLC0415 - as above
    from ods.registry.installation import InstallationStore  # noqa: PLC0415 - as above
    from ods.tenants.installation_check import InstallationCheck, opened_siblings  # noqa: PLC0415 - as above

    store = InstallationStore(engine)
    server = Server(access.master_dsn)
    async with opened_siblings(access.siblings) as siblings:
        check = InstallationCheck(store, access.tenant, siblings, shares_server=False)
        state, same = await store.state(), await check.same_installation()
        try:
            async with server.session() as session:
                return _Report(
                    state,
                    await check.system(session),
                    await check.count_own(session),
                    sorted(await check.others(session)),
                    await check.obstacle(session),
                    same,
                    check.unasked,
                )
        except DatabaseFaultError:
            known = same.obstacle if same is not None else None
            return _Report(state, None, 0, [], state.obstacle or known, same, check.unasked)
        finally:
            await server.close()
