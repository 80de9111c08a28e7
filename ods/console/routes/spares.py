"""*Spares*: the databases that are ready before they are asked for, and making those that are missing now."""

from fastapi import Request, Response

from api.dependencies import RefillDep
from api.http import temporal_calls
from ods.console.page import render, see_other
from ods.console.page_route import signed_in_router
from ods.console.texts import t
from ods.console.views.spares import SparesViewDep

router = signed_in_router()


@router.get("/spares")
async def show_spares(request: Request, view: SparesViewDep) -> Response:
    """The page."""
    return render(request, "spares.html", page=await view.page(), begun="begun" in request.query_params)


@router.get("/spares/rows")
async def show_rows(request: Request, view: SparesViewDep) -> Response:
    """The list alone."""
    return render(request, "_partials/spare_list.html", page=await view.page())


@router.post("/spares")
async def refill(request: Request, begin_refill: RefillDep) -> Response:
    """Have spares that are of no use removed, and those made that are missing."""
    await temporal_calls.require_begun(begin_refill(), t("spares.unscheduled"))
    return see_other(request, "/spares", begun="true")
