"""Loading a template from a file: the steps of `ods template load`."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ods.cli.api_access import connect
from ods.cli.dump_files import dump_of
from ods.cli.output import Progress
from ods.cli.registry_access import RegistryAccess, has_settings, operator, settings_of_environment
from ods.cli.restore_programs import Destination, needed_extensions, restore
from ods.databases.errors import DatabaseFaultError
from ods.databases.server import Server
from ods.databases.templates.loading import LoadTarget, TemplateLoad, loading, require_loadable
from ods.databases.templates.marks import TemplateMark
from ods.embedded.data_folder import DataFolder
from ods.embedded.errors import CommandError
from ods.embedded.seeding import SERVICE_ROLE
from ods.programs.private_logs import private_log
from ods.registry.audit import AuditTrail, command_entry
from ods.registry.installation import InstallationStore
from ods.registry.instances.queries import InstanceQueries
from ods.registry.storage.errors import InstallationNotConfirmedError
from ods.settings.settings import Address
from ods.tenants.installation_check import InstallationCheck, opened_siblings

_MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class TemplateAccess:
    """Where templates are loaded.

    Attributes:
        registry: the registry and its tenant.
        dsn: the maintenance database of the server, with the login that owns the ODS databases.
        templates: the name of the database behind each template.
        shares_server: whether other installations may have databases on the server.
        shared_with: the other tenants on the server that copy a database as well, by its name.
    """

    registry: RegistryAccess
    dsn: str
    templates: Mapping[str, str]
    shares_server: bool
    shared_with: Mapping[str, Sequence[str]]

    @classmethod
    def find(cls, data_dir: Path) -> "TemplateAccess":
        """That of the environment's settings, or else that of the stack in `data_dir`.

        Raises:
            CommandError: there is neither, a setting cannot be used, or none says which tenant.
        """
        registry = RegistryAccess.find(data_dir)
        if has_settings():
            tenants = settings_of_environment().tenants
            own = tenants[registry.tenant]
            templates, (host, port, _) = own.template_databases, Address.of(own.master_dsn)
            others = {
                name: other.template_databases.values()
                for name, other in tenants.items()
                if other is not own and Address.of(other.master_dsn)[:2] == (host, port)
            }
            shared_with = {
                database: [name for name, copied in others.items() if database in copied]
                for database in templates.values()
            }
            return cls(registry, registry.master_dsn, templates, own.shared_server, shared_with)
        with connect(None, data_dir) as api:
            templates = {template["name"]: template["database"] for template in api.templates()}
        dsn = _dsn_of_stack(registry, data_dir)
        return cls(registry, dsn, templates, shares_server=False, shared_with={})

    def database(self, template: str) -> str:
        """The database behind a template.

        Raises:
            CommandError: there is no such template.
        """
        if template not in self.templates:
            raise CommandError(
                f"There is no template {template}; there are {', '.join(self.templates)}. ODS_TEMPLATES adds"
                " more."
            )
        return self.templates[template]


@dataclass(frozen=True)
class LoadedTemplate:
    """What a load has published.

    Attributes:
        mark: its mark.
        settings_left_out: settings of the database before it that it could not be given.
        kept: the name that the database before it has now, if no load had made it.
    """

    mark: TemplateMark
    settings_left_out: Sequence[str]
    kept: str | None


async def load(
    access: TemplateAccess, template: str, source: str, jobs: int, show: Progress
) -> LoadedTemplate:
    """Load the template from `source`, and publish it.

    Args:
        access: where it is loaded.
        template: its name.
        source: the path of a file or folder, or an address.
        jobs: how many sessions load an archive at once.
        show: called with each phase, and what is done of it.

    Raises:
        CommandError: it cannot be loaded, and the template is as it was, unless the reason says otherwise.
    """
    database = access.database(template)
    with dump_of(source, lambda detail: show("Fetching the file", detail)) as dump, _in_own_words():
        show("Examining the file", "")
        extensions = await needed_extensions(dump)
        async with _server(access.dsn) as server:
            target = await _target(access, server, template, database)
            async with server.session() as session:
                await require_loadable(session, target, extensions)
                major = session.get_server_version().major
            async with loading(server, target) as begun:
                with private_log("ods-template-load-") as log:
                    destination = Destination(access.dsn, begun.database, major, jobs, log)
                    await restore(dump, destination, lambda: _show_size(begun, show))
                mark = await _publish(begun, jobs, show)
    await _record(access, template)
    return LoadedTemplate(mark, begun.settings_left_out, begun.kept)


async def _record(access: TemplateAccess, template: str) -> None:
    try:
        async with access.registry.connected() as engine:
            await AuditTrail(engine).record(command_entry(f"ods template load {template}", operator()))
    except CommandError as error:
        raise CommandError(
            f"The template is loaded and published, but the audit trail has no entry of it: {error}"
        ) from None


async def _publish(begun: TemplateLoad, jobs: int, show: Progress) -> TemplateMark:
    show("Checking the database", "")
    await begun.check()
    show("Collecting statistics", "")
    await begun.analyse(jobs)
    show("Publishing", "")
    return await begun.publish()


async def _show_size(begun: TemplateLoad, show: Progress) -> None:
    show("Loading into a private database", f"{await begun.size_bytes() // _MEGABYTE} MB")


async def _target(access: TemplateAccess, server: Server, template: str, database: str) -> LoadTarget:
    """What is loaded, once the installation is in order.

    Raises:
        InstallationNotConfirmedError: the operator must first say that changes are meant.
    """
    registry = access.registry
    async with (
        registry.connected() as engine,
        opened_siblings(registry.siblings) as siblings,
        server.session() as session,
    ):
        check = InstallationCheck(
            InstallationStore(engine), registry.tenant, siblings, shares_server=access.shares_server
        )
        await check.require_confirmed(session)
        others = {behind for name, behind in access.templates.items() if name != template}
        needed = frozenset({*others, await InstanceQueries(engine).database()})
        return LoadTarget(await check.id(), template, database, needed)


@asynccontextmanager
async def _server(dsn: str) -> AsyncIterator[Server]:
    server = Server(dsn)
    try:
        yield server
    finally:
        await server.close()


@contextmanager
def _in_own_words() -> Iterator[None]:
    """Turn the reasons of the server and the registry into those of a command.

    Raises:
        CommandError: for each of them.
    """
    try:
        yield
    except DatabaseFaultError as fault:
        raise CommandError(fault.reason) from None
    except InstallationNotConfirmedError as obstacle:
        raise CommandError(str(obstacle)) from None


def _dsn_of_stack(registry: RegistryAccess, data_dir: Path) -> str:
    """The server of a stack for the service's role: what a superuser loads, clones could not be read by it.

    Raises:
        CommandError: the stack has no secrets.
    """
    secrets = DataFolder(data_dir).secrets()
    if secrets is None:
        raise CommandError(f"The stack in {data_dir} has no secrets any more.")
    server = registry.master_dsn.rpartition("@")[2]
    return f"postgresql://{SERVICE_ROLE}:{secrets.service_password}@{server}"
