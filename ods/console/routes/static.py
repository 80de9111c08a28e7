"""The console's styles and scripts. A changed file has another address, so browsers keep them for a year."""

from http import HTTPStatus

from fastapi import Response

from api.http.problems import ProblemError
from ods.console.page_route import page_router
from ods.console.static_files import by_address

router = page_router()

_FOR_EVER = {"Cache-Control": "public, max-age=31536000, immutable"}


@router.get("/static/{address}")
async def get_static_file(address: str) -> Response:
    """One file."""
    file = by_address().get(address)
    if file is None:
        raise ProblemError.of_status(HTTPStatus.NOT_FOUND)
    return Response(file.content, media_type=file.media_type, headers=_FOR_EVER)
