"""The host that clients name to a proxy before the service, as the header `X-Forwarded-Host` tells it.

Of a proxy that the operator has named (`FORWARDED_ALLOW_IPS`), uvicorn itself believes what the address of a
client is, and whether it uses TLS, but not which host it asks for.
"""

from typing import Any, cast

from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from api.http.addresses import FORWARDED_HOST

_HEADER = b"x-forwarded-host"


class ForwardedHost(ProxyHeadersMiddleware):
    """Passes on, in the state of a request, what a proxy that the operator has named says about its host.

    It must be the first to see the request: behind uvicorn's own middleware, the proxy's address is unknown.
    """

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["client"] and scope["client"][0] in self.trusted_hosts:
            told = [value for name, value in scope["headers"] if name == _HEADER]
            if told:
                # What a client has sent itself stands before what the proxy has added.
                host = told[-1].decode("latin-1").rpartition(",")[2].strip()
                cast("dict[str, Any]", scope)["state"][FORWARDED_HOST] = host
        await self.app(scope, receive, send)
