"""*Instances*: the list, with filters; its rows alone for pages that are open."""

from fastapi import Request, Response

from ods.console.addresses import page_url
from ods.console.live.fragments import FragmentsDep, Shown
from ods.console.page import render
from ods.console.page_route import signed_in_router
from ods.console.views.instances import InstancesQueryDep, InstancesViewDep

router = signed_in_router()


@router.get("/instances")
async def show_instances(request: Request, view: InstancesViewDep, query: InstancesQueryDep) -> Response:
    """The page."""
    return render(request, "instances.html", page=await view.page(query))


@router.get("/instances/rows")
async def show_rows(
    request: Request, view: InstancesViewDep, query: InstancesQueryDep, fragments: FragmentsDep
) -> Response:
    """The list alone."""

    async def find() -> Shown:
        return {"page": await view.page(query)}

    # The address of the page, so that it is the same after it is loaded again.
    address = page_url(request, "/instances", page=query.number, **query.fields)
    return await fragments.shared("_partials/instance_list.html", find, address)
