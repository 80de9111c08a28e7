"""*Clients*: which programs and people may use the service, and when they have last."""

from fastapi import Request, Response

from ods.console.page import render
from ods.console.page_route import signed_in_router
from ods.console.views.clients import ClientsViewDep
from ods.console.views.paging import PageNumber

router = signed_in_router()


@router.get("/clients")
async def show_clients(request: Request, view: ClientsViewDep, page: PageNumber = 1) -> Response:
    """The page."""
    return render(request, "clients.html", page=await view.page(page))
