"""*Rotate*: a client gets another secret, which is on the page that answers the form, and nowhere else."""

from fastapi import Request, Response

from api.http.parsing import Form
from api.services.clients import ClientServiceDep
from ods.console.page import render
from ods.console.page_route import signed_in_router
from ods.console.session import ACTING, SIGNED_IN_LATELY, ActingDep, require_may_download
from ods.console.views.clients import ClientId, ClientsViewDep, client_row

router = signed_in_router()


@router.get("/clients/rotate", dependencies=[ACTING, SIGNED_IN_LATELY])
async def show_rotation(request: Request, client: ClientId, view: ClientsViewDep) -> Response:
    """The page that says what ends."""
    return render(request, "change_client.html", verb="rotate", row=await view.row(client))


@router.post("/clients/rotate", dependencies=[SIGNED_IN_LATELY])
async def rotate(
    request: Request, client: ClientId, form: Form, service: ClientServiceDep, acting: ActingDep
) -> Response:
    """Give the client another secret, and show it."""
    if (await service.get(client)).backup_download:
        await require_may_download(acting)
    made = await service.rotate(client, form.get("generation", ""))
    return render(request, "client_secret.html", row=client_row(made.client), secret=made.secret)
