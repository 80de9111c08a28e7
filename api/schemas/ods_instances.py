"""ODS instances and what belongs to them, as clients see them: never with a connection string."""

from pydantic import Field

from api.schemas.base import ResponseModel


class OdsInstanceAnswer(ResponseModel):
    """One ODS instance of a list."""

    id: int = Field(validation_alias="ods_instance_id")
    name: str
    instance_type: str | None


class ContextAnswer(ResponseModel):
    """A key and value by which the ODS/API chooses the ODS instance."""

    id: int
    ods_instance_id: int
    context_key: str = Field(validation_alias="key")
    context_value: str = Field(validation_alias="value")


class DerivativeAnswer(ResponseModel):
    """A read replica or snapshot of the ODS instance."""

    id: int
    ods_instance_id: int
    derivative_type: str


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
    application_name: str | None = Field(validation_alias="name")
    claim_set_name: str | None = Field(validation_alias="claim_set")
    education_organization_ids: list[int]
    vendor_id: int | None
    profile_ids: list[int]
    ods_instance_ids: list[int]
    enabled: bool
