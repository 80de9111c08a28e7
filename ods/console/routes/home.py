"""`/console`: leads to the list of instances."""

from fastapi import Request, Response

from ods.console.page import see_other
from ods.console.page_route import page_router

router = page_router()


@router.get("")
async def home(request: Request) -> Response:
    """Lead to the list of instances; who is not signed in is led on from there."""
    return see_other(request, "/instances")
