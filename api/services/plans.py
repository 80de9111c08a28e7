"""Dry runs: what requests would do, without doing it."""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, assert_never
from uuid import UUID

from fastapi import Depends, Query, Response

from api.database_sizes import database_sizes, free_bytes
from api.dependencies import BackupRecordsDep, InstanceQueriesDep, InstanceStoreDep, ServerDep, SettingsDep
from api.faults import WHOLE, faults_of
from api.final_backups import FinalBackupsDep
from api.http.problems import explained
from api.idempotency import DRY_RUN
from api.instance_origins import WantedOrigin
from api.schemas.plans import Plan, PlannedJob
from api.services.instances import CreateRequest
from ods.backups.errors import BackupFaultError
from ods.model.arguments import Way, rules_of_way
from ods.model.operations import RULES, Operation, Rules
from ods.model.origins import BackupOrigin, CopyOrigin, Origin, TemplateOrigin
from ods.registry.instances.deletes import Delete
from ods.registry.instances.naming import database_name
from ods.registry.storage.errors import RefusedError
from ods.registry.storage.models import DbInstance


async def _dry_run(
    dry_run: Annotated[  # noqa: FBT002 - a parameter of the query
        bool, Query(alias=DRY_RUN, description="Tell what would happen, and do nothing: 200 with a plan.")
    ] = False,
) -> bool:
    return dry_run


DryRunDep = Annotated[bool, Depends(_dry_run)]
"""Whether the client only asks what would happen. Such a request is not in the audit trail."""

PLANNED: dict[int | str, dict[str, Any]] = {
    HTTPStatus.OK.value: {"model": Plan, "description": "With `dryRun`: what would happen."}
}
"""The documentation of the answer to a dry run."""


class PlanService:
    """Makes the plans."""

    def __init__(  # noqa: PLR0913, PLR0917 - its dependencies
        self,
        instances: InstanceStoreDep,
        queries: InstanceQueriesDep,
        server: ServerDep,
        settings: SettingsDep,
        backups: BackupRecordsDep,
        final_backups: FinalBackupsDep,
    ) -> None:
        self._final_backups = final_backups
        self._backups = backups
        self._instances = instances
        self._queries = queries
        self._server = server
        self._templates = settings.template_databases

    async def of_creates(
        self,
        new: Sequence[CreateRequest],
        errors: Mapping[str, Sequence[str]],
        refused: HTTPStatus = HTTPStatus.BAD_REQUEST,
    ) -> Plan:
        """What becomes of these requests for instances.

        Args:
            new: those that keep all rules.
            errors: why the request would be refused.
            refused: how it would be answered then.
        """
        sources = [await self._source(one.origin, one.template) for one in new]
        sizes = await database_sizes(self._server, {name for name, _ in sources if name})
        jobs = [
            PlannedJob(
                operation=RULES[Operation.CREATE].name,
                name=one.name,
                database_name=database_name(one.name, one.template),
                database_template=one.template,
                drops_database=False,
                copy_of=one.origin.instance_id if isinstance(one.origin, CopyOrigin) else None,
                backup_id=one.origin.backup_id if isinstance(one.origin, BackupOrigin) else None,
                size_bytes=sizes.get(name) if name else size,
                estimated_seconds=await self._seconds(RULES[Operation.CREATE], one.template),
            )
            for one, (name, size) in zip(new, sources, strict=True)
        ]
        known = [job.size_bytes for job in jobs if job.size_bytes is not None]
        return Plan(
            status=_status(errors, refused),
            errors=errors,
            instances=jobs,
            size_bytes=sum(known) if len(known) == len(jobs) else None,
            free_bytes=await free_bytes(self._server),
        )

    async def of_reset(
        self,
        row: DbInstance,
        wanted: WantedOrigin | None,
        errors: Mapping[str, Sequence[str]],
        refused: HTTPStatus = HTTPStatus.BAD_REQUEST,
    ) -> Plan:
        """What becomes of this instance if it is reset.

        Args:
            row: the instance.
            wanted: what it is reset to; None if the request does not say that as it must.
            errors: why the request would be refused.
            refused: how it would be answered then.
        """
        jobs = [] if wanted is None else [await self._reset_to(row, wanted)]
        return Plan(
            status=_status(errors, refused),
            errors=errors,
            instances=jobs,
            size_bytes=jobs[0].size_bytes if jobs else None,
            free_bytes=await free_bytes(self._server),
        )

    async def _reset_to(self, row: DbInstance, wanted: WantedOrigin) -> PlannedJob:
        origin, template = wanted.origin, wanted.template
        name, size = await self._source(origin, template)
        sizes = await database_sizes(self._server, {name} if name else set())
        is_clone = isinstance(origin, TemplateOrigin)
        return PlannedJob(
            operation=RULES[Operation.RESET].name,
            id=row.id,
            name=row.name,
            database_name=row.database_name,
            database_template=template,
            drops_database=self._instances.deletes.drops_at_delete(row),
            copy_of=origin.instance_id if isinstance(origin, CopyOrigin) else None,
            backup_id=origin.backup_id if isinstance(origin, BackupOrigin) else None,
            size_bytes=sizes.get(name) if name else size,
            estimated_seconds=await self._seconds(RULES[Operation.RESET], template) if is_clone else None,
        )

    async def _source(self, origin: Origin, template: str) -> tuple[str | None, int | None]:
        """The database that a new one is made of; or, if it is none that is there, how large it was."""
        match origin:
            case TemplateOrigin():
                return self._templates.get(template), None
            case CopyOrigin():
                source = await self._queries.any_instance(origin.instance_id)
                return (None if source is None else source.database_name), None
            case BackupOrigin():
                return None, (await self._backups.stored(UUID(origin.backup_id))).database_size_bytes
            case _:
                assert_never(origin)

    async def of_delete(self, instance_id: int, delete: Delete) -> Plan:
        """What becomes of this instance if it is deleted in this way.

        Raises:
            InstanceNotFoundError: there is no such instance to delete.
        """
        try:
            row = await self._instances.require_deletable(instance_id, delete)
        except RefusedError as refusal:
            found = await self._queries.any_instance(instance_id)
            errors = {"Id": list(faults_of(refusal)[WHOLE])}
            return await self.of_deletes(filter(None, [found]), delete, errors, HTTPStatus.CONFLICT)
        try:
            await self._final_backups.require_ready([row], delete)
        except BackupFaultError as fault:
            return await self.of_deletes([row], delete, {"Id": [fault.reason]}, explained(fault).status)
        return await self.of_deletes([row], delete, {})

    async def of_deletes(
        self,
        rows: Iterable[DbInstance],
        delete: Delete,
        errors: Mapping[str, Sequence[str]],
        refused: HTTPStatus = HTTPStatus.BAD_REQUEST,
    ) -> Plan:
        """What becomes of these instances if they are deleted in this way.

        Args:
            rows: the instances.
            delete: how they would be deleted.
            errors: why the request would be refused.
            refused: how it would be answered then.
        """
        rows = list(rows)
        names = {row.id: row.database.trash_name if row.is_in_trash else row.database_name for row in rows}
        sizes = await database_sizes(self._server, {name for name in names.values() if name})
        versions = await self._queries.kept_versions(names)
        jobs = [
            PlannedJob(
                operation=rules.name,
                id=row.id,
                name=row.name,
                database_name=names[row.id],
                database_template=row.database_template,
                drops_database=rules.drops,
                drops_versions=() if rules.to_trash else versions.get(row.id, ()),
                size_bytes=sizes.get(names[row.id] or ""),
                estimated_seconds=None if backs_up else await self._seconds(rules, row.database_template),
                final_backup=await self._final_backups.plan(row, sizes.get(names[row.id] or ""))
                if backs_up
                else None,
            )
            for row in rows
            for rules, backs_up in [(self._rules(row, delete), self._instances.deletes.backs_up(row, delete))]
        ]
        return Plan(
            status=_status(errors, refused),
            errors=errors,
            instances=jobs,
            size_bytes=0,
            free_bytes=await free_bytes(self._server),
        )

    def _rules(self, row: DbInstance, delete: Delete) -> Rules:
        """What the job does as a client sees it: what is backed up goes to the trash before it is dropped."""
        if row.is_in_trash:
            return RULES[Operation.PURGE]
        way = self._instances.deletes.way(row, delete)
        return rules_of_way(Way.DROP if self._instances.deletes.backs_up(row, delete) else way)

    async def _seconds(self, rules: Rules, template: str) -> float | None:
        seconds = await self._queries.usual_duration(rules.word, template)
        return None if seconds is None else round(seconds, 3)


PlanServiceDep = Annotated[PlanService, Depends()]


def plan_response(plan: Plan) -> Response:
    """The answer to a dry run."""
    return Response(plan.model_dump_json(), HTTPStatus.OK, media_type="application/json")


def _status(errors: Mapping[str, Sequence[str]], refused: HTTPStatus) -> HTTPStatus:
    return refused if errors else HTTPStatus.ACCEPTED
