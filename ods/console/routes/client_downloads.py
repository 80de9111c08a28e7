"""*Let download* and *Refuse downloads*: whether a client may download backups."""

from fastapi import Request, Response

from api.services.clients import ClientServiceDep
from ods.console.page import render, see_other
from ods.console.page_route import signed_in_router
from ods.console.session import ACTING, SIGNED_IN_LATELY, ActingDep, require_may_download
from ods.console.views.clients import ClientId, ClientsViewDep

router = signed_in_router()


@router.get("/clients/let-download", dependencies=[SIGNED_IN_LATELY])
async def show_letting(
    request: Request, client: ClientId, view: ClientsViewDep, acting: ActingDep
) -> Response:
    """The page that says what the client may do then."""
    await require_may_download(acting)
    return render(request, "change_client.html", verb="let-download", row=await view.row(client))


@router.post("/clients/let-download", dependencies=[SIGNED_IN_LATELY])
async def let(request: Request, client: ClientId, service: ClientServiceDep, acting: ActingDep) -> Response:
    """Let the client download backups."""
    await require_may_download(acting)
    await service.change(client, backup_download=True)
    return see_other(request, "/clients")


@router.get("/clients/refuse-downloads", dependencies=[ACTING])
async def show_refusing(request: Request, client: ClientId, view: ClientsViewDep) -> Response:
    """The page that says what ends."""
    return render(request, "change_client.html", verb="refuse-downloads", row=await view.row(client))


@router.post("/clients/refuse-downloads")
async def refuse(request: Request, client: ClientId, service: ClientServiceDep) -> Response:
    """Have the client download backups no longer."""
    await service.change(client, backup_download=False)
    return see_other(request, "/clients")
