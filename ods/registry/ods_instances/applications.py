"""The applications that may use an ODS instance, from those tables of the ODS/API that exist."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

_NEEDED = frozenset({"applications", "apiclients"})
_PRESENT = """
SELECT relname FROM pg_class
WHERE relnamespace = to_regnamespace('dbo') AND relkind IN ('r', 'p', 'v')
"""
_USES = """
SELECT {wanted} FROM dbo.apiclientodsinstances use
JOIN dbo.apiclients client ON client.apiclientid = use.apiclient_apiclientid
"""
_USERS_OF_EACH = """
SELECT use.odsinstance_odsinstanceid AS ods_instance_id,
       array_agg(DISTINCT client.application_applicationid ORDER BY client.application_applicationid) AS ids
FROM dbo.apiclientodsinstances use
JOIN dbo.apiclients client ON client.apiclientid = use.apiclient_apiclientid
WHERE use.odsinstance_odsinstanceid = ANY(:ods_instance_ids) AND client.application_applicationid IS NOT NULL
GROUP BY use.odsinstance_odsinstanceid
"""
_QUERY = """
SELECT application.applicationid AS id, application.applicationname AS name,
       application.claimsetname AS claim_set, application.vendor_vendorid AS vendor_id,
       {education_organizations} AS education_organization_ids, {profiles} AS profile_ids,
       ARRAY({ods_instances} WHERE client.application_applicationid = application.applicationid ORDER BY 1)
           AS ods_instance_ids,
       (SELECT bool_and(client.isapproved) FROM dbo.apiclients client
        WHERE client.application_applicationid = application.applicationid) AS enabled
FROM dbo.applications application
WHERE application.applicationid IN ({users} WHERE use.odsinstance_odsinstanceid = :ods_instance_id)
ORDER BY application.applicationid
"""


@dataclass(frozen=True)
class Application:
    """An application; it is enabled if all of its clients are approved."""

    id: int
    name: str | None
    claim_set: str | None
    vendor_id: int | None
    education_organization_ids: list[int]
    profile_ids: list[int]
    ods_instance_ids: list[int]
    enabled: bool


async def applications_of(session: AsyncSession, ods_instance_id: int) -> list[Application]:
    """The applications with a client that may use the ODS instance, by id."""
    present = set(await session.scalars(text(_PRESENT)))
    if not present >= _NEEDED:
        return []
    rows = await session.execute(text(_query(present)), {"ods_instance_id": ods_instance_id})
    return [Application(**row) for row in rows.mappings()]


async def application_ids_of_each(
    session: AsyncSession, ods_instance_ids: Collection[int]
) -> Mapping[int, list[int]] | None:
    """The ids of the applications that may use each of these ODS instances, in their order.

    An ODS instance that no application may use is left out; None: the registry has no applications.
    """
    if not set(await session.scalars(text(_PRESENT))) >= _NEEDED:
        return None
    rows = await session.execute(text(_USERS_OF_EACH), {"ods_instance_ids": list(ods_instance_ids)})
    return {row.ods_instance_id: row.ids for row in rows}


def _query(present: Collection[str]) -> str:
    return _QUERY.format(
        education_organizations=_ids("applicationeducationorganizations", "educationorganizationid", present),
        profiles=_ids("profileapplications", "profile_profileid", present),
        ods_instances=_USES.format(wanted="DISTINCT use.odsinstance_odsinstanceid"),
        users=_USES.format(wanted="client.application_applicationid"),
    )


def _ids(table: str, column: str, present: Collection[str]) -> str:
    """The ids in `column` of the rows of an application in `table`; none if there is no such table."""
    if table not in present:
        return "ARRAY[]::int[]"
    return (
        f"ARRAY(SELECT DISTINCT {column} FROM dbo.{table}"  # noqa: S608 - constants
        " WHERE application_applicationid = application.applicationid ORDER BY 1)"
    )
