"""The look that a user has chosen: light, dark, or that of the system."""

from fastapi import Request, Response

from api.http.parsing import Form
from ods.console.addresses import ROOT, own_path
from ods.console.page import THEMES, see_other, theme_cookie
from ods.console.page_route import page_router
from ods.console.session import SESSION, set_cookie

router = page_router()

_YEAR_SECONDS = 31_536_000


@router.post("/theme", dependencies=[SESSION])
async def choose_theme(request: Request, form: Form) -> Response:
    """Remember the look in a cookie, for a year."""
    back, chosen = form.get("back", ""), form.get("theme", "")
    response = see_other(request, back if own_path(f"{ROOT}{back}") else "/instances")
    theme = chosen if chosen in THEMES else "system"
    set_cookie(response, request, theme_cookie(request), theme, _YEAR_SECONDS)
    return response
