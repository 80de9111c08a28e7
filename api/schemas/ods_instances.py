"""ODS instances and what belongs to them, as clients see them: never with a connection string."""

from typing import Self

from api.schemas.base import ResponseModel
from registry.ods_instances.applications import Application
from registry.storage.models import OdsInstance, OdsInstanceContext, OdsInstanceDerivative


class OdsInstanceAnswer(ResponseModel):
    """One ODS instance of a list."""

    id: int
    name: str
    instance_type: str | None

    @classmethod
    def of(cls, row: OdsInstance) -> Self:
        """The answer for `row`."""
        return cls(id=row.ods_instance_id, name=row.name, instance_type=row.instance_type)


class ContextAnswer(ResponseModel):
    """A key and value by which the ODS/API chooses the ODS instance."""

    id: int
    ods_instance_id: int
    context_key: str
    context_value: str

    @classmethod
    def of(cls, row: OdsInstanceContext) -> Self:
        """The answer for `row`."""
        return cls(
            id=row.id,
            ods_instance_id=row.ods_instance_id,
            context_key=row.key,
            context_value=row.value,
        )


class DerivativeAnswer(ResponseModel):
    """A read replica or snapshot of the ODS instance."""

    id: int
    ods_instance_id: int
    derivative_type: str

    @classmethod
    def of(cls, row: OdsInstanceDerivative) -> Self:
        """The answer for `row`."""
        return cls(
            id=row.id,
            ods_instance_id=row.ods_instance_id,
            derivative_type=row.derivative_type,
        )


class OdsInstanceDetails(ResponseModel):
    """One ODS instance with all that belongs to it."""

    id: int
    name: str
    instance_type: str | None
    ods_instance_contexts: list[ContextAnswer]
    ods_instance_derivatives: list[DerivativeAnswer]


class ApplicationAnswer(ResponseModel):
    """An application of the ODS/API that may use the ODS instance."""

    id: int
    application_name: str | None
    claim_set_name: str | None
    education_organization_ids: list[int]
    vendor_id: int | None
    profile_ids: list[int]
    ods_instance_ids: list[int]
    enabled: bool

    @classmethod
    def of(cls, application: Application) -> Self:
        """The answer for `application`."""
        return cls(
            id=application.id,
            application_name=application.name,
            claim_set_name=application.claim_set,
            education_organization_ids=application.education_organization_ids,
            vendor_id=application.vendor_id,
            profile_ids=application.profile_ids,
            ods_instance_ids=application.ods_instance_ids,
            enabled=application.enabled,
        )
