"""Requests for several instances at once wait for each other before they have a connection of the registry.

They follow each other there anyway (`InstanceStore.together`). Those that waited in the registry would hold
the connections, and the places, that single requests need.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response

from api.idempotency import JobRoute, is_dry_run, whole_body
from api.middleware.shedding import take_place
from api.tenant_services import services_of


class BulkRoute(JobRoute):
    """A route whose endpoint this process calls for one request of a tenant at a time, but for dry runs."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Have the handler of the endpoint called when the request before is answered."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if is_dry_run(request):
                await take_place(request)
                return await handler(request)
            await whole_body(request)  # which may take a while: before others wait for this request
            async with services_of(request).bulk_lock:
                await take_place(request)
                return await handler(request)

        return handle
