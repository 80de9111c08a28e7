"""*Audit*: which client asked for what, and how it ended; the same as CSV."""

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from ods.console.page import render
from ods.console.page_route import signed_in_router
from ods.console.views.audit import AuditQueryDep, AuditViewDep

router = signed_in_router()

_AS_FILE = {"Content-Disposition": 'attachment; filename="audit.csv"'}


@router.get("/audit")
async def show_audit(request: Request, view: AuditViewDep, query: AuditQueryDep) -> Response:
    """The page."""
    return render(request, "audit.html", page=await view.page(query))


@router.get("/audit.csv")
async def download(view: AuditViewDep, query: AuditQueryDep) -> Response:
    """All that the filter of the page leaves, not only what the page shows."""
    return StreamingResponse(view.csv(query), media_type="text/csv; charset=utf-8", headers=_AS_FILE)
