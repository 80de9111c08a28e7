"""*New client*: its secret is on the page that answers the form, and nowhere else."""

from http import HTTPStatus

from fastapi import Request, Response

from api.http.parsing import Form, Properties
from api.services.clients import ClientServiceDep
from ods.console.forms import REFUSED, FormState, refusal_of, shown_form
from ods.console.page import render
from ods.console.page_route import signed_in_router
from ods.console.session import SIGNED_IN_LATELY, ActingDep, require_may_download
from ods.console.views.clients import SCOPES, client_row
from ods.registry.clients.credentials import ClientScope

router = signed_in_router()

_FIELDS = {
    "ClientId": "client",
    "DisplayName": "name",
    "Scope": "scope",
    "BackupDownload": "download",
}


@router.get("/clients/new", dependencies=[SIGNED_IN_LATELY])
async def show_form(request: Request, acting: ActingDep) -> Response:
    """The page."""
    return _page(request, await shown_form(request, acting, {"scope": ClientScope.READ_ONLY}))


@router.post("/clients/new", dependencies=[SIGNED_IN_LATELY])
async def create(request: Request, form: Form, service: ClientServiceDep, acting: ActingDep) -> Response:
    """Create the client, and show its secret."""
    if form.get("download"):
        await require_may_download(acting)
    body = Properties({name: form.get(field, "") for name, field in _FIELDS.items()})
    try:
        made = await service.create(body)
    except REFUSED as error:
        refused, status = refusal_of(request, FormState(form), error, _FIELDS)
        return _page(request, refused, status)
    return render(request, "client_secret.html", row=client_row(made.client), secret=made.secret)


def _page(request: Request, form: FormState, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return render(request, "new_client.html", status, form=form, scopes=SCOPES)
