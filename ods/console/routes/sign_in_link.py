"""A link that signs in once, on the machine of the API: `ods up` prints one, `ods console` opens one."""

import time
from http import HTTPStatus
from typing import Annotated

from fastapi import Query, Request, Response

from api.http.addresses import peer
from api.http.audit_context import audit_context
from api.http.problems import ProblemError
from api.middleware.tenancy import TenantsDep
from ods.console.forms import FormState
from ods.console.page import see_other
from ods.console.page_route import page_router
from ods.console.session import begin_session, is_local
from ods.console.sign_in_page import render_sign_in
from ods.console.texts import t
from ods.registry.console_sessions import Identity
from ods.registry.sign_in_links import FIELD, PATH
from ods.settings.settings import AnySettings

router = page_router()


@router.get(PATH.removeprefix(router.prefix))
async def follow_link(
    request: Request, tenants: TenantsDep, link: Annotated[str, Query(alias=FIELD)] = ""
) -> Response:
    """Sign the client of the link in."""
    settings: AnySettings = request.app.state.settings
    tenant, _, secret = link.partition(".")
    services = tenants.named(tenant) if tenants.multi_tenant else next(iter(tenants))
    request.scope["state"]["services"] = services  # of the audit trail
    if settings.oidc_issuer is not None:
        raise ProblemError(HTTPStatus.FORBIDDEN, t("sign_in.issuer"))
    if not is_local(request):
        raise ProblemError(HTTPStatus.FORBIDDEN, t("link.elsewhere"), detail=t("link.elsewhere_detail"))
    if services is None:
        return _refused(request)
    linked = await services.sign_in_links.take(secret, peer(request))
    if linked is None:
        return _refused(request)
    standing = await services.standings.find(linked.client, time.monotonic())
    if standing is None or standing.generation != linked.generation:
        return _refused(request)
    response = see_other(request, "/instances")
    await begin_session(response, request, Identity(linked.client, linked.generation))
    return response


def _refused(request: Request) -> Response:
    audit_context(request).title = t("link.void")
    form = FormState(errors={"": [f"{t('link.void')} {t('link.another')}"]})
    return render_sign_in(request, HTTPStatus.UNAUTHORIZED, form=form)
