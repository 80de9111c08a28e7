"""*Sessions*: where the client or person is signed in; with full access, who is signed in to the tenant."""

from fastapi import Request, Response

from ods.console.page import render
from ods.console.page_route import signed_in_router
from ods.console.session import SIGNED_IN_LATELY
from ods.console.views.paging import PageNumber
from ods.console.views.sessions import SessionsViewDep

router = signed_in_router()


@router.get("/sessions", dependencies=[SIGNED_IN_LATELY])
async def show_sessions(request: Request, view: SessionsViewDep, page: PageNumber = 1) -> Response:
    """The page."""
    return render(request, "sessions.html", page=await view.page(page))
