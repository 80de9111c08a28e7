"""*Disable* and *Enable*: whether a client may get tokens and sign in."""

from fastapi import Request, Response

from api.services.clients import ClientServiceDep
from ods.console.page import render, see_other
from ods.console.page_route import signed_in_router
from ods.console.session import ACTING, SIGNED_IN_LATELY
from ods.console.views.clients import ClientId, ClientsViewDep

router = signed_in_router()


@router.get("/clients/disable", dependencies=[ACTING])
async def show_disabling(request: Request, client: ClientId, view: ClientsViewDep) -> Response:
    """The page that says what ends."""
    return render(request, "change_client.html", verb="disable", row=await view.row(client))


@router.post("/clients/disable")
async def disable(request: Request, client: ClientId, service: ClientServiceDep) -> Response:
    """Disable the client."""
    await service.disable(client)
    return see_other(request, "/clients")


@router.get("/clients/enable", dependencies=[ACTING, SIGNED_IN_LATELY])
async def show_enabling(request: Request, client: ClientId, view: ClientsViewDep) -> Response:
    """The page that says what the client may do then."""
    return render(request, "change_client.html", verb="enable", row=await view.row(client))


@router.post("/clients/enable", dependencies=[SIGNED_IN_LATELY])
async def enable(request: Request, client: ClientId, service: ClientServiceDep) -> Response:
    """Enable the client."""
    await service.enable(client)
    return see_other(request, "/clients")
