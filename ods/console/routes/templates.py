"""*Templates*: what instances can be made of. They are loaded by a command, from a file that it reads."""

from fastapi import Request, Response

from ods.console.page import render
from ods.console.page_route import signed_in_router
from ods.console.views.templates import TemplatesViewDep

router = signed_in_router()


@router.get("/templates")
async def show_templates(request: Request, view: TemplatesViewDep) -> Response:
    """The page."""
    return render(request, "templates.html", page=await view.page())
