"""Reading what a request says about an instance beside its name and template, and judging it by the rules."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from api.http.parsing import Properties, Texts, documented_body, unknown_members
from api.http.problems import ProblemError
from ods.registry.instances.attributes import (
    LONGEST_DESCRIPTION,
    MAX_LABELS,
    AttributeChanges,
    is_label_key,
    is_label_value,
    label_errors,
)
from ods.registry.instances.contexts import LONGEST_CONTEXT_TEXT, MAX_CONTEXTS, SAME_KEY, context_errors
from ods.registry.storage.errors import FieldErrors
from ods.registry.storage.rules import is_blank, text_errors

ATTRIBUTES = ("protected", "description", "labels", "contexts")
"""The members of a body that say what clients say about an instance."""
_CONTEXT_TEXT: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": LONGEST_CONTEXT_TEXT}
_CONTEXTS: dict[str, Any] = {
    "type": "array",
    "maxItems": MAX_CONTEXTS,
    "items": {
        "type": "object",
        "properties": {"contextKey": _CONTEXT_TEXT, "contextValue": _CONTEXT_TEXT},
        "required": ["contextKey", "contextValue"],
    },
}


_CHOSEN_BY = "By these the ODS/API chooses it; no other instance has the same key and value."


class _AttributesBody(BaseModel):
    description: str | None = Field(None, max_length=LONGEST_DESCRIPTION)


class NewAttributesBody(_AttributesBody):
    """The documentation of the attributes in the body of a request for a new instance."""

    contexts: list[dict[str, str]] | None = Field(
        None, json_schema_extra={"anyOf": [_CONTEXTS, {"type": "null"}]}, description=_CHOSEN_BY
    )
    protected: bool | None = Field(None, description="Whether its data can be neither deleted nor replaced.")
    labels: dict[str, str] | None = Field(
        None, max_length=MAX_LABELS, description="Keys and values as labels of Kubernetes have them."
    )


class _ChangedAttributesBody(_AttributesBody):
    model_config = ConfigDict(extra="forbid")

    contexts: list[dict[str, str]] = Field([], json_schema_extra=_CONTEXTS, description=_CHOSEN_BY)
    protected: bool = Field(False, description="Whether its data can be neither deleted nor replaced.")
    labels: dict[str, str | None] | None = Field(
        None, description="Labels to set, and with null those to remove. Null for the object removes all."
    )


CHANGED_ATTRIBUTES_BODY = documented_body(_ChangedAttributesBody)


class AttributesReader:
    """The attributes in a body. `errors` says what is wrong with each, by its name in PascalCase.

    Args:
        body: the body of the request.
    """

    def __init__(self, body: Properties[Any]) -> None:
        self._body = body
        self.errors: dict[str, list[str]] = {}

    def new(self) -> AttributeChanges:
        """Those of a new instance; null stands for what is left out."""
        return self._read({name: value for name in ATTRIBUTES if (value := self._body.get(name)) is not None})

    def changes(self) -> AttributeChanges:
        """Those that are changed, as by a merge patch (RFC 7396): null removes what is there.

        Not so contexts, without which the ODS/API does not find the instance.
        """
        self.errors |= unknown_members(self._body, ATTRIBUTES)
        given = {name: self._body[name] for name in ATTRIBUTES if name in self._body}
        return self._read(given, removable=True)

    def _read(self, given: Mapping[str, Any], *, removable: bool = False) -> AttributeChanges:
        """The attributes that are `given`; if `errors` holds something then, they are of no use."""
        labels = given.get("labels")
        if labels is not None:
            self.errors["Labels"] = label_errors(labels, removable=removable)
        return AttributeChanges(
            protected=self._protected(given["protected"]) if "protected" in given else None,
            description=self._description(given["description"]) if "description" in given else None,
            labels=labels,
            removes_labels="labels" in given and labels is None,
            contexts=self._contexts(given["contexts"]) if "contexts" in given else None,
        )

    def _protected(self, value: object) -> bool:
        if not isinstance(value, bool):
            self.errors["Protected"] = ["'Protected' must be true or false."]
        return value is True

    def _description(self, value: object) -> str:
        if not isinstance(value, str | None):
            self.errors["Description"] = ["'Description' must be text."]
            return ""
        self.errors["Description"] = text_errors("Description", value or "", LONGEST_DESCRIPTION)
        return "" if value is None or is_blank(value) else value

    def _contexts(self, items: object) -> dict[str, str]:
        """The value for each key."""
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            self.errors["Contexts"] = ["'Contexts' must be a list of objects; [] is none."]
            return {}
        if len(items) > MAX_CONTEXTS:
            self.errors["Contexts"] = [
                f"'Contexts' must be {MAX_CONTEXTS} contexts or fewer: there are {len(items)}."
            ]
            return {}
        contexts: dict[str, str] = {}
        for item in items:
            texts = Texts(Properties(item))
            key, value = texts.get("contextKey"), texts.get("contextValue")
            self._add({**context_errors(key, value), **texts.errors})
            contexts[key or ""] = value or ""
        if len({key.casefold() for key in contexts}) < len(items):
            self._add(SAME_KEY)
        return contexts

    def _add(self, errors: FieldErrors) -> None:
        """Add to `errors`, each message once."""
        for name, messages in errors.items():
            known = self.errors.setdefault(name, [])
            known += [message for message in messages if message not in known]


async def _label_filter(
    written: Annotated[
        list[str] | None,
        Query(
            alias="label",
            description="Labels as `key:value`, repeated or separated by commas; all must be there.",
        ),
    ] = None,
) -> list[tuple[str, str]]:
    # An empty one, as of a variable that is not set, would list all: what is done to them, is done to all.
    texts = {text.strip() for value in written or [] for text in value.split(",")}
    labels = [(key, value) for key, _, value in (text.partition(":") for text in texts)]
    is_valid = all(":" in text for text in texts) and all(
        is_label_key(key) and is_label_value(value) for key, value in labels
    )
    if not is_valid or len(labels) > MAX_LABELS:
        raise ProblemError.invalid(
            {"Label": [f"'Label' must be up to {MAX_LABELS} labels, each as key:value."]}
        )
    return labels


LabelFilterDep = Annotated[list[tuple[str, str]], Depends(_label_filter)]
"""The labels that all instances of a list have, each a key and a value."""
