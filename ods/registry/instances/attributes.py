"""What clients say about an instance beside name and template: protection, description, labels, contexts."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from ods.registry.instances.contexts import replace_contexts
from ods.registry.instances.labels import count_errors, merged
from ods.registry.instances.protection import require_protectable
from ods.registry.instances.versions import keep_versions
from ods.registry.keeping import KEPT_IN_DOUBT
from ods.registry.storage.errors import require_valid
from ods.registry.storage.models import DbInstance

LONGEST_DESCRIPTION = 500
"""Characters of an instance's description."""


@dataclass(frozen=True)
class AttributeChanges:
    """What a client wants of an instance's attributes, within their rules; None leaves one as it is.

    Attributes:
        protected: whether the instance is protected.
        description: any text; an empty one removes the description.
        labels: those to set, and with null for a value those to remove.
        removes_labels: whether all others are removed.
        contexts: all contexts of the instance, the value for each key.
    """

    protected: bool | None = None
    description: str | None = None
    labels: Mapping[str, str | None] | None = None
    removes_labels: bool = False
    contexts: Mapping[str, str] | None = None


UNCHANGED = AttributeChanges()


async def change_attributes(session: AsyncSession, instance: DbInstance, changes: AttributeChanges) -> None:
    """Give the instance, which the transaction has locked, what `changes` says.

    Raises:
        InvalidError: it would have too many labels, or another instance has just the same contexts.
        RefusedError: it is too late to protect it, or its ODS instance, which has the contexts, is gone.
    """
    if changes.protected is not None and changes.protected != instance.is_protected:
        if changes.protected:
            require_protectable(instance)
        instance.is_protected = changes.protected
        # Also after the end: nothing could be brought back while the instance was protected.
        await keep_versions(session, instance.id, KEPT_IN_DOUBT)
    if changes.description is not None:
        instance.description = changes.description or None
    if changes.labels is not None or changes.removes_labels:
        kept = {} if changes.removes_labels else instance.labels or {}
        labels = merged(kept, changes.labels or {})
        require_valid({"Labels": count_errors(len(labels))})
        instance.labels = labels or None
    if changes.contexts is not None:
        await replace_contexts(session, instance, changes.contexts)
