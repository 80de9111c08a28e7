"""What is wrong with a request, as validation errors, also where it is about several instances at once."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from api.http.problems import explained
from ods.registry.storage.errors import (
    FieldErrors,
    InstanceNotFoundError,
    InvalidError,
    NameTakenError,
    RefusedError,
    require_valid,
)

REFUSALS = (InvalidError, NameTakenError, RefusedError, InstanceNotFoundError)
"""The errors that say what is wrong with a request for an instance."""
WHOLE = ""
"""Under this are the faults that are not those of one property."""


def faults_of(refusal: Exception) -> FieldErrors:
    """Everything that one of `REFUSALS` says, by the property's name in PascalCase."""
    match refusal:
        case InvalidError():
            return {name: messages for name, messages in refusal.errors.items() if messages}
        case NameTakenError():
            return {"Name": [str(refusal)]}
        case RefusedError():
            return {WHOLE: [f"{one.reason} {one.next_step}" for one in (refusal, *refusal.others)]}
        case _:
            return {WHOLE: [explained(refusal).title]}


class EntryFaults:
    """The faults of the entries of a list.

    Args:
        member: the name of the list in the body; `instances` files a fault under `instances[3].Name`.
    """

    def __init__(self, member: str) -> None:
        self._member = member
        self._errors: dict[str, list[str]] = {}

    @property
    def errors(self) -> Mapping[str, list[str]]:
        """All of them, by entry and property, in the order of the entries."""
        return dict(sorted(self._errors.items(), key=lambda item: _number(item[0])))

    @contextmanager
    def of(self, number: int) -> Iterator[None]:
        """File the refusal that the block raises under the entry with this number, which counts from 0."""
        try:
            yield
        except REFUSALS as refusal:
            for name, messages in faults_of(refusal).items():
                self.add(number, name, messages)

    def add(self, number: int, name: str, messages: Sequence[str]) -> None:
        """File messages about a property of the entry, each once."""
        if messages:
            known = self._errors.setdefault(self._key(number, name), [])
            known += [message for message in messages if message not in known]

    def entry(self, number: int) -> str:
        """How messages name the entry."""
        return f"{self._member}[{number}]"

    def require_none(self) -> None:
        """Refuse the request if an entry has a fault.

        Raises:
            InvalidError: one has.
        """
        require_valid(self.errors)

    def _key(self, number: int, name: str) -> str:
        return f"{self.entry(number)}.{name}" if name else self.entry(number)


def _number(key: str) -> int:
    return int(key.partition("[")[2].partition("]")[0])
