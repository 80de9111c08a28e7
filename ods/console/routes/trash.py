"""*Trash*: what can come back, and until when."""

from fastapi import Request, Response

from ods.console.live.fragments import FragmentsDep, Shown
from ods.console.page import render
from ods.console.page_route import signed_in_router
from ods.console.views.paging import PageNumber
from ods.console.views.trash import TrashViewDep

router = signed_in_router()


@router.get("/trash")
async def show_trash(request: Request, view: TrashViewDep, page: PageNumber = 1) -> Response:
    """The page."""
    return render(request, "trash.html", page=await view.page(page))


@router.get("/trash/rows")
async def show_rows(view: TrashViewDep, fragments: FragmentsDep, page: PageNumber = 1) -> Response:
    """The list alone."""

    async def find() -> Shown:
        return {"page": await view.page(page)}

    return await fragments.shared("_partials/trash_list.html", find)
