"""Changes of the contexts and derivatives of ODS instances: each is one transaction.

An ODS instance has no two contexts with the same key and no two derivatives of the same type, in whatever
case these are written. The unique indexes of the tables compare with case, so every change locks the ODS
instance; before the row itself, as the steps of jobs do it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Generic, TypeVar

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from ods.registry.connection_strings.npgsql import connection_string_errors
from ods.registry.connection_strings.ods_connection_strings import OdsConnectionStrings
from ods.registry.instances.contexts import context_errors, holder_of_reserved
from ods.registry.ods_instances.store import ODS_INSTANCE
from ods.registry.storage.errors import InvalidError, RowNotFoundError, require_valid
from ods.registry.storage.models import OdsInstance, OdsInstanceContext, OdsInstanceDerivative
from ods.registry.storage.rules import is_blank
from ods.registry.storage.sessions import UNIQUE_VIOLATION, Conflicts, RegistrySessions, locked

CONTEXT = "odsInstanceContext"
"""What clients call a context."""
DERIVATIVE = "odsInstanceDerivative"
"""What clients call a derivative."""
DERIVATIVE_TYPES = ("ReadReplica", "Snapshot")

_RESERVED = (
    "With this context, the ODS instance would have just those that the instance '{}' is about to get, which"
    " is not created yet or comes back."
)


@dataclass(frozen=True)
class ContextDraft:
    """A context as a client wants it: nothing is checked yet but the types of the properties.

    Attributes:
        ods_instance_id: the ODS instance that it belongs to; None if the client has sent no whole number.
        key: its key.
        value: its value.
        type_errors: what is wrong with the types of the properties, by their names in PascalCase.
    """

    ods_instance_id: int | None
    key: str | None
    value: str | None
    type_errors: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class DerivativeDraft:
    """A derivative as a client wants it: nothing is checked yet but the types of the properties.

    Attributes:
        ods_instance_id: the ODS instance that it belongs to; None if the client has sent no whole number.
        type: one of `DERIVATIVE_TYPES`, in any case.
        connection_string: how it is connected to; blank keeps that of an existing derivative.
        type_errors: what is wrong with the types of the properties, by their names in PascalCase.
    """

    ods_instance_id: int | None
    type: str | None
    connection_string: str | None
    type_errors: dict[str, list[str]] = field(default_factory=dict)


_Row = TypeVar("_Row", bound=OdsInstanceContext | OdsInstanceDerivative)
_Draft = TypeVar("_Draft", bound=ContextDraft | DerivativeDraft)


class _Parts(ABC, Generic[_Row, _Draft]):
    """Creates, changes and deletes one kind of rows that belong to a tenant's ODS instances.

    If there is no such row, or no such ODS instance, `RowNotFoundError` is raised; `InvalidError`, if a draft
    breaks rules.
    """

    _model: type[_Row]
    _resource: ClassVar[str]
    _conflicts: ClassVar[Conflicts]

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = RegistrySessions(engine)

    async def create(self, draft: _Draft) -> _Row:
        """Add the row that the draft describes."""
        async with self._sessions.transaction(self._conflicts) as session:
            row = self._model()
            await self._write_values(session, row, draft)
            session.add(row)
            return row

    async def update(self, identifier: int, draft: _Draft) -> _Row:
        """Give the row the values of the draft."""
        async with self._sessions.transaction(self._conflicts) as session:
            row = await self._locked(session, identifier, draft.ods_instance_id)
            await self._write_values(session, row, draft)
            return row

    async def delete(self, identifier: int) -> None:
        """Remove the row."""
        async with self._sessions.transaction(self._conflicts) as session:
            await session.delete(await locked(session, self._model, identifier, self._resource))

    async def _locked(self, session: AsyncSession, identifier: int, wanted_owner: int | None) -> _Row:
        """Lock the row after the ODS instances that it belongs to and shall belong to, if any."""
        table = self._model
        owner = await session.scalar(select(table.ods_instance_id).where(table.id == identifier))
        if owner is None:
            raise RowNotFoundError(self._resource, identifier)
        for ods_instance_id in sorted({owner, wanted_owner or owner}):
            await _locked_owner(session, ods_instance_id)
        return await locked(session, self._model, identifier, self._resource)

    @abstractmethod
    async def _write_values(self, session: AsyncSession, row: _Row, draft: _Draft) -> None:
        """Give `row` the values of the draft, if they keep the rules."""


class Contexts(_Parts[OdsInstanceContext, ContextDraft]):
    """The contexts: keys and values by which the ODS/API chooses an ODS instance."""

    _model = OdsInstanceContext
    _resource = CONTEXT
    _duplicate: ClassVar = {"": ["The combined key ODS instance id and context key must be unique."]}
    _conflicts: ClassVar = {UNIQUE_VIOLATION: partial(InvalidError, _duplicate)}

    async def _write_values(
        self, session: AsyncSession, row: OdsInstanceContext, draft: ContextDraft
    ) -> None:
        table = OdsInstanceContext
        errors = {
            "OdsInstanceId": await _owner_errors(session, draft.ods_instance_id),
            **context_errors(draft.key, draft.value),
        }
        is_other = (table.ods_instance_id == draft.ods_instance_id, table.id != row.id)
        if await _is_among(session, draft.key, select(table.key).where(*is_other)):
            errors |= self._duplicate
        require_valid(errors | draft.type_errors)
        owner, key, value = draft.ods_instance_id or 0, draft.key or "", draft.value or ""
        others = (await session.scalars(select(table).where(*is_other))).all()
        contexts = {other.key: other.value for other in others} | {key: value}
        holder = await holder_of_reserved(session, contexts, owner)
        require_valid({"ContextValue": [_RESERVED.format(holder)] if holder is not None else []})
        row.ods_instance_id, row.key, row.value = owner, key, value


class Derivatives(_Parts[OdsInstanceDerivative, DerivativeDraft]):
    """The derivatives: read replicas and snapshots of ODS instances."""

    _model = OdsInstanceDerivative
    _resource = DERIVATIVE
    _duplicate: ClassVar = {"": ["The combined key ODS instance id and derivative type must be unique."]}
    _conflicts: ClassVar = {UNIQUE_VIOLATION: partial(InvalidError, _duplicate)}

    def __init__(self, engine: AsyncEngine, connection_strings: OdsConnectionStrings) -> None:
        super().__init__(engine)
        self._connection_strings = connection_strings

    async def _write_values(
        self, session: AsyncSession, row: OdsInstanceDerivative, draft: DerivativeDraft
    ) -> None:
        table = OdsInstanceDerivative
        kept = row.id is not None and is_blank(draft.connection_string)
        errors = {
            "OdsInstanceId": await _owner_errors(session, draft.ods_instance_id),
            "DerivativeType": _type_errors(draft.type),
            "ConnectionString": [] if kept else connection_string_errors(draft.connection_string),
        }
        others = select(table.derivative_type).where(
            table.ods_instance_id == draft.ods_instance_id,
            table.id != row.id,
        )
        if await _is_among(session, draft.type, others):
            errors |= self._duplicate
        require_valid(errors | draft.type_errors)
        row.ods_instance_id = draft.ods_instance_id or 0
        row.derivative_type = _known_type(draft.type) or ""
        if not kept:
            row.connection_string = self._connection_strings.encrypted_text(draft.connection_string or "")


async def _owner_errors(session: AsyncSession, ods_instance_id: int | None) -> list[str]:
    """Lock the ODS instance that the row shall belong to, so that no other session adds a duplicate to it."""
    if not ods_instance_id:
        return ["'Ods Instance Id' is the id of no ODS instance. Please provide valid ods instance id."]
    if await _locked_owner(session, ods_instance_id) is None:
        raise RowNotFoundError(ODS_INSTANCE, ods_instance_id)
    return []


async def _locked_owner(session: AsyncSession, ods_instance_id: int) -> OdsInstance | None:
    return await session.get(OdsInstance, ods_instance_id, with_for_update={"key_share": True})


async def _is_among(session: AsyncSession, word: str | None, others: Select[str]) -> bool:
    wanted = (word or "").casefold()
    return any(other.casefold() == wanted for other in await session.scalars(others))


def _known_type(word: str | None) -> str | None:
    """The derivative type that is meant, as the ODS/API spells it."""
    return next((known for known in DERIVATIVE_TYPES if known.lower() == (word or "").lower()), None)


def _type_errors(word: str | None) -> list[str]:
    if is_blank(word):
        return ["'Derivative Type' must not be empty."]
    if _known_type(word) is None:
        words = " or ".join(f"'{known}'" for known in DERIVATIVE_TYPES)
        return [f"The value for the Derivative type is not allowed. The only accepted values are: {words}."]
    return []
