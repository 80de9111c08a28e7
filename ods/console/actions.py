"""Pages that ask for one thing and have no field: what happens, a button that says it, and the way back."""

from dataclasses import dataclass
from http import HTTPStatus

from fastapi import Request, Response

from ods.console.forms import EMPTY, FormState, refusal_of
from ods.console.page import render


@dataclass(frozen=True)
class Action:
    """What such a page is for.

    Attributes:
        key: the end of the keys of its texts: `action.heading.`, `action.what.`, `action.button.`.
        name: of what it is about.
        back: the path, below the console, of the page to which it leads back.
    """

    key: str
    name: str
    back: str


def action_page(
    request: Request, action: Action, form: FormState = EMPTY, status: HTTPStatus = HTTPStatus.OK
) -> Response:
    """The page for an action; the `form` says what is wrong with the request."""
    return render(request, "action.html", status, action=action, form=form)


def refused_action(request: Request, action: Action, error: Exception) -> Response:
    """The page for an action that was refused with one of `ods.console.forms.REFUSED`."""
    return action_page(request, action, *refusal_of(request, EMPTY, error, {}))
