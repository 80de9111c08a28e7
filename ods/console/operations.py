"""What a job does, in words."""

from ods.console.texts import t
from ods.model.operations import JOB_WORDS


def operation_word(operation: str | None) -> str | None:
    """The operation of a job in words; what another product has written stays as it is."""
    return t(f"operation.{operation}") if operation in JOB_WORDS else operation
