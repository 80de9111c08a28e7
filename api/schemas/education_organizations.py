"""ODS instances with their education organizations, as Ed-Fi Admin App reads them.

In a large tenant there are hundreds of thousands of organizations. PostgreSQL writes their JSON; nothing here
reads it.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from api.schemas.base import ResponseModel, paced
from api.schemas.managed_status import ManagedStatus


class EducationOrganization(ResponseModel):
    """An education organization of an ODS database."""

    education_organization_id: int
    name_of_institution: str
    short_name_of_institution: str | None
    discriminator: str
    parent_id: int | None


class OdsInstanceOrganizations(ResponseModel):
    """An ODS instance, with the education organizations that the last refresh read."""

    id: int
    name: str
    instance_type: str | None
    education_organizations: list[EducationOrganization]


class TenantInstance(ResponseModel):
    """An ODS instance, or an instance that has none."""

    id: int | None
    ods_instance_manage_id: int | None
    name: str
    instance_type: str | None
    status: ManagedStatus
    database_template: str | None
    database_name: str | None
    education_organizations: list[EducationOrganization]


async def written_list(instances: Iterable[tuple[Mapping[str, Any], str]]) -> str:
    """The JSON array of instances.

    Args:
        instances: of each, the members beside `educationOrganizations`, and the JSON of those.
    """
    written = [
        f'{json.dumps(members)[:-1]},"educationOrganizations":{organizations}}}'
        async for members, organizations in paced(instances)
    ]
    return f"[{','.join(written)}]"
