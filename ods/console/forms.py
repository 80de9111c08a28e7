"""The fields of a form: what was typed, and what is wrong with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Self

from fastapi import Request

from api.faults import REFUSALS, WHOLE, faults_of
from api.http.audit_context import audit_context
from api.http.problems import explained
from api.middleware.route_table import path_of
from ods.backups.errors import BackupFaultError
from ods.console.addresses import ROOT
from ods.console.session import Session
from ods.console.texts import t


@dataclass(frozen=True)
class FormState:
    """A form as its page shows it.

    Attributes:
        values: what is typed into each field.
        errors: what is wrong with each; under the empty name, with the request as a whole.
        is_kept: whether what is typed comes from before the client had to sign in again.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, Sequence[str]] = field(default_factory=dict)
    is_kept: bool = False

    def value(self, name: str) -> str:
        """What is typed into a field."""
        return self.values.get(name, "")

    def errors_of(self, name: str) -> Sequence[str]:
        """What is wrong with a field."""
        return self.errors.get(name, ())

    @property
    def all_errors(self) -> list[tuple[str, str]]:
        """Each error with the name of its field."""
        return [(name, message) for name, messages in self.errors.items() for message in messages]

    def refused(self, errors: Mapping[str, Sequence[str]]) -> Self:
        """The same form with these errors."""
        return type(self)(self.values, errors)


EMPTY = FormState()

REFUSED = (*REFUSALS, BackupFaultError)
"""The errors that say what is wrong with a form, after which it is shown again."""


async def shown_form(
    request: Request, session: Session, values: Mapping[str, str] | None = None
) -> FormState:
    """The form of the page: with what was typed before the client had to sign in again, if it was this one.

    Args:
        request: the request for the page.
        session: its session.
        values: what is there from the start.
    """
    kept = session.kept
    if kept is None or kept.get("path") != path_of(request.scope).removeprefix(ROOT):
        return FormState(values or {})
    await session.services.console_sessions.forget_kept(session.digest)
    # A box that is not ticked is not among the fields: what was there from the start does not count.
    return FormState(kept["fields"], is_kept=True)


def refusal_of(
    request: Request, form: FormState, error: Exception, fields: Mapping[str, str]
) -> tuple[FormState, HTTPStatus]:
    """The form with what the API says is wrong with it, and the status of the API's answer.

    Args:
        request: the request, whose entry in the audit trail gets the title of the refusal.
        form: the form as it was sent.
        error: one of `REFUSED`.
        fields: for each property of the API, the field that its errors are shown beside; those of other
            properties are shown at the top.
    """
    errors: dict[str, list[str]] = {}
    for name, messages in _errors_by_property(error).items():
        errors.setdefault(fields.get(name, WHOLE), []).extend(messages)
    problem = explained(error)
    audit_context(request).title = problem.title
    return form.refused(errors), problem.status


def _errors_by_property(error: Exception) -> Mapping[str, Sequence[str]]:
    if isinstance(error, BackupFaultError):
        return {"FinalBackup": [error.reason]}
    return faults_of(error)


def as_shown(now: Mapping[str, str]) -> dict[str, str]:
    """What a page shows in its fields, for the hidden ones beside them: others may change it since.

    Args:
        now: what is there, by the names of the fields.
    """
    return {_shown(name): text for name, text in now.items()}


def is_touched(form: Mapping[str, str], name: str) -> bool:
    """Whether the field says something else than the page has shown in it."""
    return not _is_same(form.get(name, ""), form.get(_shown(name), ""))


def overtaken(form: Mapping[str, str], now: Mapping[str, str]) -> FormState | None:
    """The form again, if others have changed what its page has shown; None if they have not.

    Args:
        form: the form as it was sent.
        now: what is there, by the names of the fields that would be saved.
    """
    others = {
        name: text
        for name, text in now.items()
        if not any(_is_same(text, form.get(field, "")) for field in (_shown(name), name))
    }
    if not others:
        return None
    errors = {name: [t("form.overtaken", now=text or t("form.nothing"))] for name, text in others.items()}
    return FormState({**form, **as_shown(others)}, errors)


def _shown(name: str) -> str:
    return f"shown_{name}"


def _is_same(one: str, other: str) -> bool:
    """Whether two texts of a field say the same."""
    return _lines(one) == _lines(other)


def _lines(text: str) -> list[str]:
    """The lines of a field, which browsers end otherwise than this page."""
    return [line.strip() for line in text.strip().splitlines()]


def not_confirmed(form: Mapping[str, str], told: str | None, wanted: str) -> dict[str, list[str]]:
    """Why the client has not confirmed what the page does, which drops a database, or may.

    Args:
        form: the form as it was sent; `told` is what its page has told.
        told: what the page tells now; a setting may have changed since, or another process have answered.
            None if that is only why nothing is done.
        wanted: what is to be typed; nothing if it is empty.
    """
    if told is not None and form.get("told") != told:
        return {WHOLE: [t("form.told_otherwise")]}
    return mistyped(form, wanted) if wanted else {}


def mistyped(form: Mapping[str, str], wanted: str) -> dict[str, list[str]]:
    """What is wrong with the name that was to be typed in `typed_name`; nothing if it is `wanted`."""
    if form.get("typed_name", "").strip() == wanted.strip():
        return {}
    return {"typed_name": [t("delete.mistyped", wanted=wanted)]}
