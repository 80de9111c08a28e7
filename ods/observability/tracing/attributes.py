"""What spans say of the job or request that they are part of, in the words of the log."""

from collections.abc import Mapping

_SAID = ("tenant", "instance_id", "ods_instance_id", "job_id", "attempt", "request_id")
"""Not who the client is, which may be the name of a person; the rest has attributes of other names."""


def attributes_of(fields: Mapping[str, object]) -> dict[str, str | int]:
    """The attributes of a span for these fields of a log line."""
    known = {f"ods.{name}": fields[name] for name in _SAID if fields.get(name) is not None}
    return {name: value if isinstance(value, int) else str(value) for name, value in known.items()}
