"""Tokens in forms, so that a page of another site cannot send a form of the console in its user's name.

A token is made of a secret that only the browser has, in a cookie: of the session, or of the visit to the
page for signing in. So nothing of it is stored.
"""

import hashlib
import hmac
from collections.abc import Mapping
from http import HTTPStatus

from api.http.problems import ProblemError
from console.texts import t

FIELD = "csrf"
"""The field of a form that has the token."""


def token_of(secret: str) -> str:
    """The token for forms that are shown to the browser which has this secret."""
    return hmac.new(secret.encode(), b"console form", hashlib.sha256).hexdigest()


def require_token(form: Mapping[str, str], secret: str) -> None:
    """Let a form pass that was shown to the browser which sends it.

    Raises:
        ProblemError: 403, it was not.
    """
    if not hmac.compare_digest(form.get(FIELD, "").encode(), token_of(secret).encode()):
        raise ProblemError(HTTPStatus.FORBIDDEN, t("csrf.title"), detail=t("csrf.detail"))
