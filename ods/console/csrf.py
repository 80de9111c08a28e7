"""Tokens in forms, so that a page of another site cannot send a form of the console in its user's name.

A token is made of a secret that only the browser has, in a cookie: of the session, or of the visit to the
page for signing in. So nothing of it is stored. That of a session names its tenant as well: what was typed
into a form of one tenant is not for another, which has other instances with the same numbers.
"""

import hashlib
import hmac
from collections.abc import Mapping
from http import HTTPStatus

from api.http.problems import ProblemError
from ods.console.texts import t

FIELD = "csrf"
"""The field of a form that has the token."""


def token_of(secret: str, tenant: str = "") -> str:
    """The token for forms that are shown to the browser which has this secret, of this tenant."""
    return f"{tenant}.{hmac.new(secret.encode(), b'console form', hashlib.sha256).hexdigest()}"


def tenant_of(form: Mapping[str, str]) -> str:
    """The tenant of the session to which the form was shown; empty if it names none."""
    return form.get(FIELD, "").rpartition(".")[0]


def require_token(form: Mapping[str, str], secret: str, tenant: str = "") -> None:
    """Let a form pass that was shown to the browser which sends it, in this tenant.

    Raises:
        ProblemError: 403, it was not.
    """
    if not hmac.compare_digest(form.get(FIELD, "").encode(), token_of(secret, tenant).encode()):
        raise ProblemError(HTTPStatus.FORBIDDEN, t("csrf.title"), detail=t("csrf.detail"))
