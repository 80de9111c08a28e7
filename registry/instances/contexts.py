"""Contexts that clients give an instance: keys and values by which the ODS/API chooses its ODS instance.

A context that is given here belongs to one instance: no other one gets the same key and value, in whatever
case they are written, for the ODS/API compares values without case. Until the instance has an ODS instance,
the contexts are reserved in its row; so are those that were set aside, while it is undeleted.
"""

from collections.abc import Mapping
from functools import partial

from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from registry.instances import status
from registry.instances.jobs import InstanceJob
from registry.instances.status import InstanceStatus, Operation
from registry.storage.errors import FieldErrors, InvalidError, RefusedError
from registry.storage.models import DbInstance, OdsInstance, OdsInstanceContext
from registry.storage.rules import required_text_errors
from registry.storage.sessions import UNIQUE_VIOLATION, Conflicts

LONGEST_CONTEXT_TEXT = 50
"""Characters of a context's key, and of its value."""
MAX_CONTEXTS = 20
"""Contexts that a client can give an instance; each takes a lock until its request is committed."""

_PAIRS = 0x4F6443
"""Keeps the locks of contexts apart from other locks of this database."""

_WANTED = "unnest(CAST(:keys AS text[]), CAST(:values AS text[])) AS wanted (key, value)"
# In the order of the locks: two transactions that want the same contexts do not wait for each other.
_LOCK = f"""
SELECT pg_advisory_xact_lock(lock) FROM (
    SELECT DISTINCT hashtextextended(lower(key) || '=' || lower(value), {_PAIRS}) AS lock FROM {_WANTED}
    ORDER BY lock
) AS locks
"""  # noqa: S608 - constants
_RESERVED = f"""
SELECT odsinstanceid AS owner, reserved.key, reserved.value
FROM adminapi.managed_instances, jsonb_each_text(reservedcontexts) AS reserved
WHERE reservedcontexts IS NOT NULL AND state <> '{InstanceStatus.DELETED}'
UNION ALL
SELECT odsinstanceid, kept ->> 'key', kept ->> 'value'
FROM adminapi.managed_instances, jsonb_array_elements(setaside -> 'contexts') AS kept
WHERE trashedat IS NOT NULL AND purgedat IS NULL
    AND operation = '{Operation.UNDELETE}' AND state <> '{InstanceStatus.DELETED}'
"""  # noqa: S608 - constants
_PUBLISHED = """
SELECT odsinstance_odsinstanceid AS owner, contextkey AS key, contextvalue AS value
FROM dbo.odsinstancecontexts
"""
_OF_OTHERS = """
SELECT taken.key, taken.value FROM ({source}) AS taken
JOIN {wanted} ON lower(taken.key) = lower(wanted.key) AND lower(taken.value) = lower(wanted.value)
WHERE taken.owner IS DISTINCT FROM CAST(:owner AS int)
ORDER BY 1, 2
"""
_RESERVED_BY_OTHERS = text(_OF_OTHERS.format(source=_RESERVED, wanted=_WANTED))
# One query: what another transaction publishes meanwhile is seen either as reserved or as published.
_TAKEN_BY_OTHERS = text(_OF_OTHERS.format(source=f"{_RESERVED} UNION ALL {_PUBLISHED}", wanted=_WANTED))

SAME_KEY: FieldErrors = {
    "Contexts": ["An instance has one context of a key, in whatever case it is written."]
}
CONTEXT_CONFLICTS: Conflicts = {UNIQUE_VIOLATION: partial(InvalidError, SAME_KEY)}
"""Another product has added a context of the same key meanwhile."""


def context_errors(key: str | None, value: str | None) -> FieldErrors:
    """Everything that is wrong with a context's key and with its value."""
    return {
        "ContextKey": required_text_errors("Context Key", key, LONGEST_CONTEXT_TEXT),
        "ContextValue": required_text_errors("Context Value", value, LONGEST_CONTEXT_TEXT),
    }


async def require_free_contexts(
    session: AsyncSession, contexts: Mapping[str, str], owner: int | None = None
) -> None:
    """Keep other transactions from taking `contexts` before this one ends.

    Args:
        session: the transaction.
        contexts: the value for each key.
        owner: the OdsInstanceId of the instance that may have them already.

    Raises:
        InvalidError: another instance has one of them, or is about to get it; the message names it.
    """
    if not contexts:
        return
    await lock_contexts(session, contexts)
    found = (await session.execute(_TAKEN_BY_OTHERS, {**_wanted(contexts), "owner": owner})).all()
    if found:
        raise InvalidError(
            {"Contexts": [f"The context '{key}' = '{value}' is another instance's." for key, value in found]}
        )


async def lock_contexts(session: AsyncSession, contexts: Mapping[str, str]) -> None:
    """Have other transactions that want one of `contexts` wait until this one ends."""
    await session.execute(text(_LOCK), _wanted(contexts))


async def is_reserved(session: AsyncSession, key: str, value: str, owner: int) -> bool:
    """Whether an instance other than that with the OdsInstanceId `owner` is about to get the context.

    If not, none can reserve it before the transaction ends.
    """
    context = {key: value}
    await lock_contexts(session, context)
    found = await session.execute(_RESERVED_BY_OTHERS, {**_wanted(context), "owner": owner})
    return found.first() is not None


async def publish_contexts(session: AsyncSession, job: InstanceJob) -> None:
    """Give the new ODS instance, whose row is there, the contexts that are reserved for its instance."""
    row = DbInstance.id == job.instance_id
    reserved = await session.scalar(select(DbInstance.reserved_contexts).where(row))
    if reserved:
        await _add(session, job.ods_instance_id, reserved)
        await session.execute(update(DbInstance).where(row).values(reserved_contexts=None))


async def replace_contexts(session: AsyncSession, instance: DbInstance, contexts: Mapping[str, str]) -> None:
    """Give the instance, which is locked, these contexts and no others; those that stay keep their ids.

    Raises:
        InvalidError: another instance has one of them.
        RefusedError: the ODS instance has been removed.
    """
    if instance.published_at is None:
        await require_free_contexts(session, contexts, instance.ods_instance_id)
        instance.reserved_contexts = dict(contexts) or None
        return
    number, table = instance.ods_instance_id, OdsInstanceContext
    # As it is locked by those that change a single context.
    if await session.get(OdsInstance, number, with_for_update={"key_share": True}) is None:
        current = InstanceStatus(instance.status)
        reason = "The ODS/API does not route to the instance any more: it can have no contexts."
        raise RefusedError(current, reason, status.next_step(current))
    await require_free_contexts(session, contexts, number)
    rows = (await session.scalars(select(table).where(table.ods_instance_id == number))).all()
    kept = {row.key: row.value for row in rows if contexts.get(row.key) == row.value}
    await session.execute(delete(table).where(table.ods_instance_id == number, table.key.not_in(kept)))
    await _add(session, number, {key: value for key, value in contexts.items() if key not in kept})


async def _add(session: AsyncSession, ods_instance_id: int, contexts: Mapping[str, str]) -> None:
    rows = [
        {"ods_instance_id": ods_instance_id, "key": key, "value": value} for key, value in contexts.items()
    ]
    if rows:
        await session.execute(insert(OdsInstanceContext), rows)


def _wanted(contexts: Mapping[str, str]) -> dict[str, list[str]]:
    return {"keys": list(contexts.keys()), "values": list(contexts.values())}
