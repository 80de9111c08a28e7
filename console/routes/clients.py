"""*Clients*: which programs and people may use the service, and when they have last."""

from fastapi import Request, Response

from console.page import render
from console.page_route import signed_in_router
from console.views.clients import ClientsViewDep
from console.views.paging import PageNumber

router = signed_in_router()


@router.get("/clients")
async def show_clients(request: Request, view: ClientsViewDep, page: PageNumber = 1) -> Response:
    """The page."""
    return render(request, "clients.html", page=await view.page(page))
