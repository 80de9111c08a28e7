"""JSON of arguments and results that another release has written is refused, not read as if it said less."""

from dataclasses import fields, is_dataclass
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.converter import JSONPlainPayloadConverter, JSONTypeConverter
from temporalio.converter import JSONTypeConverterUnhandled as Unhandled

from ods.model.arguments import Arguments, read_arguments
from ods.model.origins import Origin, read_origin


class OtherReleaseError(Exception):
    """A payload has fields that this release does not know, or lacks some that it needs.

    Not a `FailureError`: a workflow whose arguments these are fails its task, and stays open for a worker
    that knows them.
    """

    def __init__(self) -> None:
        super().__init__("Another release has written what this one cannot read.")


class _KnownFields(JSONTypeConverter):
    """Refuses objects with fields that their dataclass does not have, which Temporal would leave out."""

    def to_typed_value(self, hint: type, value: Any) -> Arguments | Origin | Unhandled | None:  # noqa: ANN401 - any JSON
        if hint == Arguments:
            return read_arguments(value)
        if hint == Origin:
            return read_origin(value)
        if is_dataclass(hint) and isinstance(value, dict):
            known = {field.name for field in fields(hint)}
            if not value.keys() <= known:
                raise OtherReleaseError
        return JSONTypeConverter.Unhandled


class StrictJsonConverter(JSONPlainPayloadConverter):
    """Reads dataclasses that have just the fields of this release; those with defaults may be left out."""

    def __init__(self) -> None:
        super().__init__(custom_type_converters=[_KnownFields()])

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:  # noqa: ANN401 - Temporal's
        """Read a payload.

        Raises:
            OtherReleaseError: it is none of this type.
        """
        try:
            return super().from_payload(payload, type_hint)
        except (TypeError, ValueError):
            raise OtherReleaseError from None
