"""*End*, on the page *Sessions*: for clients and people that may only read as well, who end their own."""

from http import HTTPStatus
from uuid import UUID

from fastapi import Request, Response

from api.http.problems import ProblemError
from ods.console.page import see_other
from ods.console.page_route import page_router
from ods.console.session import SessionDep, end_session, forget_session
from ods.console.texts import t
from ods.console.views.sessions import SessionsViewDep

router = page_router()


@router.post("/sessions/{session_id}/end")
async def end(request: Request, session_id: UUID, session: SessionDep, view: SessionsViewDep) -> Response:
    """End a session; who ends the session of this browser is signed out.

    Raises:
        ProblemError: 404, it has ended already, or is one that the page does not show.
    """
    if not session.is_recent:
        return see_other(request, "/sessions")  # which asks for signing in again
    digest = await view.end(session_id)
    if digest is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, t("sessions.ended"))
    if digest != session.digest:
        return see_other(request, "/sessions")
    await end_session(request, session)
    response = see_other(request, "/sign-in")
    forget_session(response, request)
    return response
