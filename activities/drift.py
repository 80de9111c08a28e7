"""Where registry and server contradict each other, for a person to look at: nothing here is touched."""

import asyncio
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from databases import inspection
from databases.inspection import Database
from databases.server import Server
from instances.catalog import Catalog
from instances.models import DbInstance, OdsInstance
from instances.naming import DATABASE_PREFIX
from instances.secrets import OdsConnectionStrings
from instances.status import InstanceStatus, Operation

_SECOND_LOOK_SECONDS = 0.5


class DriftKind(StrEnum):
    """What can be wrong."""

    DATABASE_WITHOUT_INSTANCE = "DatabaseWithoutInstance"
    INSTANCE_WITHOUT_DATABASE = "InstanceWithoutDatabase"
    INSTANCE_WITHOUT_ODS_INSTANCE = "InstanceWithoutOdsInstance"
    ODS_INSTANCE_WITHOUT_DATABASE = "OdsInstanceWithoutDatabase"
    INVALID_DATABASE = "InvalidDatabase"
    TEMPLATE_MISSING = "TemplateMissing"
    TEMPLATE_OPEN = "TemplateOpen"
    ORPHAN_DIRECTORY = "OrphanDirectory"


@dataclass(frozen=True, order=True)
class Drift:
    """One contradiction: `subject` is the database, instance or directory it is about."""

    kind: DriftKind
    subject: str
    explanation: str


@dataclass(frozen=True)
class Snapshot:
    """Both sides, read one after the other; `known_marks` are also those of deleted instances."""

    databases: Mapping[str, Database]
    orphan_directories: Collection[str]
    instances: Collection[DbInstance]
    known_marks: Collection[str]
    ods_instances: Collection[OdsInstance]


class DriftDetector:
    """Compares a tenant's registry with its server, where databases of other tenants may be as well."""

    def __init__(
        self,
        tenant: str,
        server: Server,
        catalog: Catalog,
        templates: Collection[str],
        connection_strings: OdsConnectionStrings,
    ) -> None:
        self._tenant = tenant
        self._server = server
        self._catalog = catalog
        self._templates = templates
        self._connection_strings = connection_strings

    async def detect(self) -> list[Drift]:
        """Every contradiction that two looks agree on: what a running job changes meanwhile is none.

        Raises:
            DatabaseFaultError: the server cannot be looked at.
        """
        first = set(self._contradictions(await self._snapshot()))
        if not first:
            return []
        await asyncio.sleep(_SECOND_LOOK_SECONDS)
        return sorted(first & set(self._contradictions(await self._snapshot())))

    async def _snapshot(self) -> Snapshot:
        async with self._server.session() as session:
            found = await inspection.databases(session)
            directories = await inspection.orphan_directories(session)
        return Snapshot(
            databases={database.name: database for database in found},
            orphan_directories=directories,
            instances=await self._catalog.live_instances(),
            known_marks=await self._catalog.known_marks([one.mark for one in found if one.mark is not None]),
            ods_instances=await self._catalog.all_ods_instances(),
        )

    def _contradictions(self, seen: Snapshot) -> Iterator[Drift]:
        yield from _instances_without(seen)
        yield from self._ods_instances_without_database(seen)
        yield from _unexpected_databases(seen, self._tenant, self._templates)
        yield from _wrong_templates(seen, self._templates)
        for directory in seen.orphan_directories:
            words = "This directory below base/ belongs to no database; a crashed server may have left it."
            yield Drift(DriftKind.ORPHAN_DIRECTORY, directory, words)

    def _ods_instances_without_database(self, seen: Snapshot) -> Iterator[Drift]:
        for ods_instance in seen.ods_instances:
            database = self._connection_strings.local_database(ods_instance.connectionstring)
            if database is not None and database not in seen.databases:
                yield Drift(
                    DriftKind.ODS_INSTANCE_WITHOUT_DATABASE,
                    f"{ods_instance.odsinstanceid} {ods_instance.name}",
                    f"The ODS/API routes to the database '{database}', which does not exist.",
                )


def _instances_without(seen: Snapshot) -> Iterator[Drift]:
    routed = {ods_instance.odsinstanceid for ods_instance in seen.ods_instances}
    for instance in seen.instances:
        if not _is_whole(instance):
            continue
        subject = f"{instance.id} {instance.name}"
        database = seen.databases.get(instance.databasename)
        if database is None or database.mark != str(instance.mark):
            fault = "does not exist" if database is None else "does not carry the instance's mark"
            words = f"The instance is {instance.status}, but its database '{instance.databasename}' {fault}."
            yield Drift(DriftKind.INSTANCE_WITHOUT_DATABASE, subject, words)
        if instance.odsinstanceid not in routed:
            words = (
                f"The instance is {instance.status}, but there is no ODS instance {instance.odsinstanceid}."
            )
            yield Drift(DriftKind.INSTANCE_WITHOUT_ODS_INSTANCE, subject, words)


def _is_whole(instance: DbInstance) -> bool:
    """Whether the instance has what it was created for; one whose rename failed has it under its old name."""
    failed_rename = (InstanceStatus.ERROR, Operation.RENAME)
    return (
        instance.status == InstanceStatus.COMPLETED or (instance.status, instance.operation) == failed_rename
    )


def _unexpected_databases(seen: Snapshot, tenant: str, templates: Collection[str]) -> Iterator[Drift]:
    live_names = {row.databasename for row in seen.instances}
    live_marks = {str(row.mark) for row in seen.instances}
    for database in seen.databases.values():
        if database.mark in live_marks or database.template or database.name in templates:
            continue
        if database.spare:
            continue  # those that are of no use are removed by the refill, and shown with the others
        if database.tenant not in {None, tenant} and database.mark not in seen.known_marks:
            continue  # it is none of this tenant's business
        if database.invalid:
            words = "A DROP of this database was interrupted; all that can be done with it is to drop it."
            yield Drift(DriftKind.INVALID_DATABASE, database.name, words)
        # An unpublished database of an unknown instance is another registry's clone, at work.
        elif database.mark in seen.known_marks or (
            not database.staging and _looks_like_ods(database) and database.name not in live_names
        ):
            words = "No live instance has this database."
            yield Drift(DriftKind.DATABASE_WITHOUT_INSTANCE, database.name, words)


def _looks_like_ods(database: Database) -> bool:
    return database.mark is not None or database.name.lower().startswith(f"{DATABASE_PREFIX}_".lower())


def _wrong_templates(seen: Snapshot, templates: Collection[str]) -> Iterator[Drift]:
    for name in templates:
        template = seen.databases.get(name)
        if template is None:
            words = "This template does not exist; instances cannot be created from it."
            yield Drift(DriftKind.TEMPLATE_MISSING, name, words)
        elif template.open:
            words = (
                "Sessions on this template hold up every create; ALTER DATABASE … ALLOW_CONNECTIONS false."
            )
            yield Drift(DriftKind.TEMPLATE_OPEN, name, words)
