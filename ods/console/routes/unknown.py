"""Every other address: there is no such page."""

from http import HTTPStatus

from fastapi import Response

from api.http.problems import ProblemError
from ods.console.page_route import signed_in_router
from ods.console.texts import t

router = signed_in_router()


@router.get("/{path:path}")
async def unknown() -> Response:
    """Say that there is no such page."""
    raise ProblemError(HTTPStatus.NOT_FOUND, t("unknown.title"), detail=t("unknown.detail"))
