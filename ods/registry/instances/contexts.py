"""Contexts that clients give an instance: keys and values by which the ODS/API chooses its ODS instance.

The ODS/API chooses by all contexts of a request together, and compares values without case. So many instances
may have one context (a school year), but no two live instances have all keys and values the same, in whatever
case. Until the instance has an ODS instance, its contexts are reserved in its row; so are those that were set
aside, while it is undeleted.

A context of the ODS instance is the instance's own if the row has the same key and value. Others were given,
or changed, by requests for ODS instances or by another product.
"""

from collections.abc import Mapping
from functools import partial

from sqlalchemy import ColumnElement, TextClause, delete, false, insert, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from ods.model.operations import BRINGING_BACK, InstanceStatus, next_step, quoted
from ods.registry.instances.jobs import InstanceJob
from ods.registry.storage.errors import FieldErrors, InvalidError, RefusedError
from ods.registry.storage.models import DbInstance, OdsInstance, OdsInstanceContext
from ods.registry.storage.rules import required_text_errors
from ods.registry.storage.sessions import UNIQUE_VIOLATION, Conflicts

LONGEST_CONTEXT_TEXT = 50
"""Characters of a context's key, and of its value."""
MAX_CONTEXTS = 20

_SETS = 0x4F6443
"""Keeps the locks of contexts apart from other locks of this database."""

# All contexts of one owner: equal if keys and values are, in any order and case.
_SET = (
    'jsonb_agg(jsonb_build_array(lower(key), lower(value)) ORDER BY lower(key) COLLATE "C",'
    ' lower(value) COLLATE "C")'
)
_WANTED = f"""
SELECT {_SET} AS contexts FROM unnest(CAST(:keys AS text[]), CAST(:values AS text[])) AS wanted (key, value)
"""  # noqa: S608 - constants
_LOCK = f"SELECT pg_advisory_xact_lock(hashtextextended(contexts::text, {_SETS})) FROM ({_WANTED}) AS wanted"  # noqa: S608 - constants
_RESERVED = f"""
SELECT 'reserved' AS place, odsinstanceid AS owner, name, reserved.key, reserved.value
FROM adminapi.databases AS own
JOIN adminapi.managed_instances AS instance
    ON instance.id = own.instanceid AND instance.databaseid = own.databaseid,
    jsonb_each_text(owncontexts) AS reserved
WHERE publishedat IS NULL AND owncontexts IS NOT NULL AND state <> '{InstanceStatus.DELETED}'
UNION ALL
SELECT 'set aside', odsinstanceid, name, kept ->> 'key', kept ->> 'value'
FROM adminapi.databases AS own
JOIN adminapi.managed_instances AS instance
    ON instance.id = own.instanceid AND instance.databaseid = own.databaseid,
    jsonb_array_elements(setaside -> 'contexts') AS kept
WHERE reason IS NOT NULL
    AND operation IN ({quoted(BRINGING_BACK)}) AND state <> '{InstanceStatus.DELETED}'
"""  # noqa: S608 - constants
_PUBLISHED = """
SELECT 'published' AS place, odsinstanceid AS owner, name, contextkey AS key, contextvalue AS value
FROM dbo.odsinstancecontexts JOIN dbo.odsinstances ON odsinstanceid = odsinstance_odsinstanceid
"""
_OTHERS_WITH_ALL = """
SELECT name FROM ({source}) AS taken WHERE owner IS DISTINCT FROM CAST(:owner AS int)
GROUP BY place, owner, name HAVING {set} = (SELECT contexts FROM ({wanted}) AS wanted)
ORDER BY name LIMIT 1
"""
_HOLDER_OF_RESERVED = text(_OTHERS_WITH_ALL.format(source=_RESERVED, set=_SET, wanted=_WANTED))
# One query: what another transaction publishes meanwhile is seen either as reserved or as published.
_HOLDER = text(
    _OTHERS_WITH_ALL.format(source=f"{_RESERVED} UNION ALL {_PUBLISHED}", set=_SET, wanted=_WANTED)
)

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
    """Keep other transactions from taking all of `contexts` together before this one ends.

    `owner` is the OdsInstanceId of the instance that may have them already.
    """
    if not contexts:
        return
    holder = await _holder(session, _HOLDER, contexts, owner)
    if holder is not None:
        words = ", ".join(f"'{key}' = '{value}'" for key, value in contexts.items())
        reason = f"The instance '{holder}' has just these contexts: {words}. Add one that tells them apart."
        raise InvalidError({"Contexts": [reason]})


async def lock_contexts(session: AsyncSession, contexts: Mapping[str, str]) -> None:
    """Keep other transactions from taking all of `contexts` together before this one ends."""
    await session.execute(text(_LOCK), _wanted(contexts))


async def holder_of_reserved(session: AsyncSession, contexts: Mapping[str, str], owner: int) -> str | None:
    """The name of an instance other than `owner`'s that is about to get just these contexts.

    If there is none, no other transaction can reserve them all before this one ends.
    """
    return await _holder(session, _HOLDER_OF_RESERVED, contexts, owner)


async def _holder(
    session: AsyncSession, query: TextClause, contexts: Mapping[str, str], owner: int | None
) -> str | None:
    await lock_contexts(session, contexts)
    name: str | None = await session.scalar(query, {**_wanted(contexts), "owner": owner})
    return name


def _wanted(contexts: Mapping[str, str]) -> dict[str, object]:
    return {"keys": list(contexts.keys()), "values": list(contexts.values())}


async def publish_contexts(session: AsyncSession, job: InstanceJob) -> None:
    """Give the new ODS instance, whose row is there, the contexts that are reserved for its instance."""
    if not job.published:
        await _add(session, job.ods_instance_id, await own_contexts_of(session, job.instance_id))


async def own_contexts_of(session: AsyncSession, instance_id: int) -> Mapping[str, str]:
    """The contexts that requests for the instance have given it, whether its ODS instance has them or not."""
    row = DbInstance.id == instance_id
    return await session.scalar(select(DbInstance.own_contexts).where(row)) or {}


def is_among(contexts: Mapping[str, str]) -> ColumnElement[bool]:
    """Whether key and value of a row are one of these, letter by letter."""
    pair = tuple_(OdsInstanceContext.key, OdsInstanceContext.value)
    return pair.in_(list(contexts.items())) if contexts else false()


async def replace_contexts(session: AsyncSession, instance: DbInstance, contexts: Mapping[str, str]) -> None:
    """Give the instance, which is locked, these contexts and no others; those that stay keep their ids."""
    if not instance.is_published:
        await require_free_contexts(session, contexts, instance.ods_instance_id)
        instance.own_contexts = dict(contexts) or None
        return
    number, table = instance.ods_instance_id, OdsInstanceContext
    # The lock that requests for a single context take as well.
    if await session.get(OdsInstance, number, with_for_update={"key_share": True}) is None:
        current = InstanceStatus(instance.status)
        reason = "The ODS/API does not route to the instance any more: it can have no contexts."
        raise RefusedError(current, reason, next_step(current))
    await require_free_contexts(session, contexts, number)
    instance.own_contexts = dict(contexts) or None
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
