"""*Backups*: the list, the newest first; its rows alone for pages that are open."""

from fastapi import Request, Response

from ods.console.addresses import page_url
from ods.console.live.fragments import FragmentsDep, Shown
from ods.console.page import render
from ods.console.page_route import signed_in_router
from ods.console.views.backups import BackupsQueryDep, BackupsViewDep

router = signed_in_router()


@router.get("/backups")
async def show_backups(request: Request, view: BackupsViewDep, query: BackupsQueryDep) -> Response:
    """The page."""
    return render(request, "backups.html", page=await view.page(query))


@router.get("/backups/rows")
async def show_rows(
    request: Request, view: BackupsViewDep, query: BackupsQueryDep, fragments: FragmentsDep
) -> Response:
    """The list alone."""

    async def find() -> Shown:
        return {"page": await view.page(query)}

    # The address of the page, so that it is the same after it is loaded again.
    address = page_url(request, "/backups", page=query.number, **query.fields)
    return await fragments.shared("_partials/backup_list.html", find, address)
