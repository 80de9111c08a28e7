"""The comments on template databases that were loaded by this service, and the private names of these.

A template is loaded into a database with a private name that contains the id of the installation. When it is
published, that database takes the template's name, and the one that had it before a private name. The comment
says which of these states a database is in, and of a published one what it holds.
"""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from ods.databases.constants import TEMPLATE_PREFIX

_NAME = re.compile(rf"{TEMPLATE_PREFIX}[0-9a-f]{{16}}_[0-9a-f]{{32}}")

_HIGHEST_GENERATION = 2**31 - 1


class TemplateState(StrEnum):
    """What a database is to a template."""

    LOADING = "loading"
    PUBLISHED = "published"
    REPLACED = "replaced"


@dataclass(frozen=True)
class Contents:
    """What an ODS database tells of itself.

    Attributes:
        tables: how many tables it has.
        data_standard: the version of the Data Standard; None if its deployment journal does not tell it.
        extensions: the versions of the Ed-Fi extensions, by name.
    """

    tables: int
    data_standard: str | None
    extensions: Mapping[str, str]


@dataclass(frozen=True)
class TemplateMark:
    """What the comment on a template database says.

    Attributes:
        installation: the installation that has loaded or replaced it.
        template: the name of the template.
        state: what the database is to the template.
        generation: counts what was published under the template's name.
        loaded_at: when it was loaded; None until it is published.
        contents: what it holds; None until it is published.
    """

    installation: str
    template: str
    state: TemplateState
    generation: int = field(default=0, kw_only=True)
    loaded_at: datetime | None = field(default=None, kw_only=True)
    contents: Contents | None = field(default=None, kw_only=True)

    @property
    def comment(self) -> str:
        """The comment that says this."""
        return json.dumps(
            {
                "installation": self.installation,
                "template": self.template,
                "state": self.state,
                "generation": self.generation,
                "loadedAt": self.loaded_at and self.loaded_at.isoformat(timespec="seconds"),
                "contents": self.contents and vars(self.contents),
            }
        )

    @classmethod
    def read(cls, comment: str | None) -> Self | None:
        """What `comment` says; None if it is not the comment of a template."""
        try:
            fields = json.loads(comment or "")
            return cls(
                str(fields["installation"]),
                str(fields["template"]),
                TemplateState(fields["state"]),
                generation=_required(generation_in(fields["generation"])),
                loaded_at=fields["loadedAt"] and datetime.fromisoformat(fields["loadedAt"]),
                contents=fields["contents"] and _contents(fields["contents"]),
            )
        # It may be anything.
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return None


def generation_in(value: object) -> int | None:
    """The generation that a member of a comment says; None if it is none that a registry could store."""
    return value if type(value) is int and 0 <= value <= _HIGHEST_GENERATION else None


def new_private_name(installation: str) -> str:
    """A private name for one more template database."""
    return f"{private_prefix(installation)}{uuid.uuid4().hex}"


def private_prefix(installation: str) -> str:
    """How the private names of an installation begin."""
    return f"{TEMPLATE_PREFIX}{uuid.UUID(installation).hex[:16]}_"


def is_private(database: str) -> bool:
    """Whether the name is a private one of a template, of any installation."""
    return _NAME.fullmatch(database) is not None


def _required(generation: int | None) -> int:
    if generation is None:
        raise ValueError
    return generation


def _contents(fields: Mapping[str, Any]) -> Contents:
    standard = fields["data_standard"]
    return Contents(
        tables=int(fields["tables"]),
        data_standard=None if standard is None else str(standard),
        extensions={str(name): str(version) for name, version in fields["extensions"].items()},
    )
