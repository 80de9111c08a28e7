"""What clients say about an instance beside name and template: protection, description, labels, contexts.

Clients group and find instances by their labels, which are keys and values.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from sqlalchemy.ext.asyncio import AsyncSession

from ods.registry.instances.contexts import replace_contexts
from ods.registry.instances.refusals import require_protectable
from ods.registry.instances.revisions import renew
from ods.registry.instances.versions import keep_versions
from ods.registry.keeping import KEPT_IN_DOUBT
from ods.registry.storage.errors import require_valid
from ods.registry.storage.models import DbInstance
from ods.registry.storage.rules import printable

LONGEST_DESCRIPTION = 500


MAX_LABELS = 20
_LONGEST_PART = 63
"""Characters of a value, and of a key without its prefix."""
_LONGEST_PREFIX = 253

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_DOMAIN_PART = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_PREFIX = re.compile(rf"{_DOMAIN_PART}(\.{_DOMAIN_PART})*")

_SHOWN = 80
"""Characters of a key that messages repeat."""


def is_label_key(key: str) -> bool:
    """Whether `key` is a key as Kubernetes has them: a name, perhaps after a prefix and a slash.

    The name has 1 to 63 ASCII letters, digits, dashes, underscores and dots, and begins and ends with a
    letter or digit. The prefix is a domain name in lower case (RFC 1123) of at most 253 characters. Source:
    https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
    """
    prefix, slash, name = key.rpartition("/")
    if slash and not (len(prefix) <= _LONGEST_PREFIX and _PREFIX.fullmatch(prefix)):
        return False
    return len(name) <= _LONGEST_PART and _NAME.fullmatch(name) is not None


def is_label_value(value: str) -> bool:
    """Whether `value` is empty, or a name as in a key (same source)."""
    return not value or (len(value) <= _LONGEST_PART and _NAME.fullmatch(value) is not None)


def label_errors(labels: object, *, removable: bool = False) -> list[str]:
    """What is wrong with the labels in a request; at most twenty errors of single labels.

    `removable`: null may stand for a value, because it removes the label.
    """
    if not isinstance(labels, Mapping):
        return ["'Labels' must be an object."]
    errors = (error for key, value in labels.items() for error in _errors(key, value, removable=removable))
    return [*islice(errors, MAX_LABELS), *count_errors(sum(value is not None for value in labels.values()))]


def count_errors(count: int) -> list[str]:
    """What is wrong with an instance that has `count` labels."""
    return (
        [f"'Labels' must be {MAX_LABELS} labels or fewer: there are {count}."] if count > MAX_LABELS else []
    )


def merged(labels: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """`labels` with the `changes`: null removes a label, any other value sets it."""
    changed = {**labels, **changes}
    return {key: value for key, value in changed.items() if value is not None}


def _errors(key: str, value: object, *, removable: bool) -> Iterator[str]:
    shown = printable(key[:_SHOWN])
    if not is_label_key(key):
        yield (
            f"The key '{shown}' of a label must be 1 to 63 letters, digits, dashes, underscores and dots, and"
            " begin and end with a letter or digit; it may follow a domain name and a slash."
        )
    if value is None and removable:
        return
    if not isinstance(value, str):
        yield f"The value of the label '{shown}' must be text."
    elif not is_label_value(value):
        yield (
            f"The value of the label '{shown}' must be 63 characters or fewer, letters, digits, dashes,"
            " underscores and dots, and begin and end with a letter or digit, or be empty."
        )


@dataclass(frozen=True)
class AttributeChanges:
    """What a client wants of an instance's attributes, already validated; None leaves one as it is.

    An empty description removes it, and so does null for a label's value; `removes_labels` removes all other
    labels. `contexts` are all of the instance, the value for each key.
    """

    protected: bool | None = None
    description: str | None = None
    labels: Mapping[str, str | None] | None = None
    removes_labels: bool = False
    contexts: Mapping[str, str] | None = None


UNCHANGED = AttributeChanges()


async def change_attributes(session: AsyncSession, instance: DbInstance, changes: AttributeChanges) -> None:
    """Give the instance, which the transaction has locked, the attributes in `changes`."""
    if changes.protected is not None and changes.protected != instance.is_protected:
        if changes.protected:
            require_protectable(instance)
        await renew(session, instance.id)
        instance.is_protected = changes.protected
        # Also when the protection ends: nothing could be brought back as long as it held.
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
