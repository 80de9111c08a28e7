"""*Templates*: what instances can be made of. They are loaded by a command, from a file that it reads."""

from fastapi import Request, Response

from console.page import render
from console.page_route import signed_in_router
from console.views.templates import TemplatesViewDep

router = signed_in_router()


@router.get("/templates")
async def show_templates(request: Request, view: TemplatesViewDep) -> Response:
    """The page."""
    return render(request, "templates.html", page=await view.page())
