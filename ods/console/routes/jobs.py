"""*Jobs*: the list, the newest first; its rows alone for pages that are open."""

from fastapi import Request, Response

from ods.console.addresses import page_url
from ods.console.live.fragments import FragmentsDep, Shown
from ods.console.page import render
from ods.console.page_route import signed_in_router
from ods.console.views.jobs import JobsQueryDep, JobsViewDep

router = signed_in_router()


@router.get("/jobs")
async def show_jobs(request: Request, view: JobsViewDep, query: JobsQueryDep) -> Response:
    """The page."""
    return render(request, "jobs.html", page=await view.page(query))


@router.get("/jobs/rows")
async def show_rows(
    request: Request, view: JobsViewDep, query: JobsQueryDep, fragments: FragmentsDep
) -> Response:
    """The list alone."""

    async def find() -> Shown:
        return {"page": await view.page(query)}

    # The address of the page, so that it is the same after it is loaded again.
    address = page_url(request, "/jobs", page=query.number, **query.fields)
    return await fragments.shared("_partials/job_list.html", find, address)
