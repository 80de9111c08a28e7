"""The view of a tenant at one moment: ODS instances, instances without one, education organizations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, and_, cast, func, literal, null, or_, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import aliased

from ods.registry.instances.queries import ODS_INSTANCES
from ods.registry.storage.listing import Page
from ods.registry.storage.models import DbInstance, EducationOrganization, OdsInstance
from ods.registry.storage.sessions import RegistrySessions


@dataclass(frozen=True)
class ViewedInstance:
    """One line of the view: an ODS instance, a row of `adminapi.dbinstances`, or both of one instance.

    `organizations` is the JSON of its education organizations, as clients are shown it: in a large tenant
    they are hundreds of thousands, and nothing but that is done with them.
    """

    ods_instance_id: int | None
    name: str
    instance_type: str | None
    row_id: int | None
    status: str | None
    operation: str | None
    template: str | None
    database: str | None
    organizations: str


@dataclass(frozen=True)
class ViewedOrganizations:
    """An ODS instance; `organizations` is as in `ViewedInstance`."""

    ods_instance_id: int
    name: str
    instance_type: str | None
    organizations: str


class TenantView:
    """Reads one tenant's view."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = RegistrySessions(engine)

    async def instances(self) -> Sequence[ViewedInstance]:
        """The ODS instances by name, in the order of UTF-16 code units; then the rows without one, by id."""
        # One snapshot for both queries: an instance that is published between them must not be in neither.
        async with self._sessions.snapshot() as session:
            routed = [ViewedInstance(*row) for row in await session.execute(_routed())]
            others = [ViewedInstance(*row) for row in await session.execute(_without_routing())]
        routed.sort(key=lambda one: (one.name.encode("utf-16-be"), one.ods_instance_id))
        return routed + others

    async def page(self, page: Page) -> Sequence[ViewedOrganizations]:
        """A page of the ODS instances."""
        return await self._organizations_of(ODS_INSTANCES.page_of(_with_organizations(), page))

    async def one(self, ods_instance_id: int) -> ViewedOrganizations | None:
        """The ODS instance with this id; None if there is none."""
        its = OdsInstance.ods_instance_id == ods_instance_id
        return next(iter(await self._organizations_of(_with_organizations().where(its))), None)

    async def _organizations_of(self, query: Select[*tuple[Any, ...]]) -> Sequence[ViewedOrganizations]:
        async with self._sessions.statement() as session:
            return [ViewedOrganizations(*row) for row in await session.execute(query)]


def _routed() -> Select[*tuple[Any, ...]]:
    """ODS instances, each with its newest row: a deleted one only if there is no other."""
    changed = func.coalesce(DbInstance.last_modified, DbInstance.last_refreshed)
    newest = aliased(
        DbInstance,
        select(DbInstance)
        .ext(distinct_on(DbInstance.ods_instance_id))
        .order_by(DbInstance.ods_instance_id, _is_deleted(DbInstance), changed.desc(), DbInstance.id.desc())
        .subquery(),
    )
    organizations = _organizations().subquery()
    return (
        select(
            OdsInstance.ods_instance_id,
            OdsInstance.name,
            OdsInstance.instance_type,
            newest.id,
            newest.status,
            newest.operation,
            newest.database_template,
            newest.database_name,
            func.coalesce(organizations.c.list, "[]"),
        )
        .outerjoin(newest, newest.ods_instance_id == OdsInstance.ods_instance_id)
        .outerjoin(organizations, organizations.c.instance_id == OdsInstance.ods_instance_id)
    )


def _with_organizations() -> Select[*tuple[Any, ...]]:
    """ODS instances; only the organizations of those that are selected are read."""
    its = EducationOrganization.instance_id == OdsInstance.ods_instance_id
    listed = select(_listed()).where(its).scalar_subquery()
    return select(
        OdsInstance.ods_instance_id, OdsInstance.name, OdsInstance.instance_type, func.coalesce(listed, "[]")
    )


def _organizations() -> Select[int, str]:
    table = EducationOrganization
    return select(table.instance_id, _listed().label("list")).group_by(table.instance_id)


def _listed() -> ColumnElement[str]:
    """The JSON of education organizations."""
    table = EducationOrganization
    one = func.json_build_object(
        "educationOrganizationId",
        table.education_organization_id,
        "nameOfInstitution",
        table.name_of_institution,
        "shortNameOfInstitution",
        table.short_name,
        "discriminator",
        table.discriminator,
        "parentId",
        table.parent_id,
    )
    return cast(func.json_agg(one).aggregate_order_by(table.education_organization_id), Text)


def _without_routing() -> Select[*tuple[Any, ...]]:
    """Rows without an ODS instance; deleted ones only until their name is used again."""
    other = aliased(DbInstance)
    newer = and_(other.name == DbInstance.name, or_(~_is_deleted(other), other.id > DbInstance.id))
    routed = select(OdsInstance).where(OdsInstance.ods_instance_id == DbInstance.ods_instance_id)
    used_again = or_(
        select(other).where(newer).exists(),
        select(OdsInstance).where(OdsInstance.name == DbInstance.name).exists(),
    )
    return (
        select(
            null(),
            DbInstance.name,
            null(),
            DbInstance.id,
            DbInstance.status,
            DbInstance.operation,
            DbInstance.database_template,
            DbInstance.database_name,
            literal("[]"),
        )
        .where(~routed.exists(), ~and_(_is_deleted(DbInstance), used_again))
        .order_by(DbInstance.id)
    )


def _is_deleted(row: type[DbInstance]) -> ColumnElement[bool]:
    return ~row.is_live
