"""The page of one job: how far it is, why it failed, what its workflow does; its parts for open pages."""

from fastapi import Request, Response

from ods.console.live.fragments import FragmentsDep, Shown
from ods.console.page import render
from ods.console.page_route import signed_in_router
from ods.console.views.jobs import JobsViewDep

router = signed_in_router()


@router.get("/jobs/{job_id}")
async def show_job(request: Request, job_id: str, view: JobsViewDep) -> Response:
    """The page."""
    page, work = await view.job(job_id), await view.execution(job_id)
    return render(request, "job.html", page=page, work=work)


@router.get("/jobs/{job_id}/story")
async def show_story(job_id: str, view: JobsViewDep, fragments: FragmentsDep) -> Response:
    """Its story."""

    async def find() -> Shown:
        return {"page": await view.job(job_id)}

    return await fragments.shared("_partials/job_story.html", find)


@router.get("/jobs/{job_id}/work")
async def show_work(request: Request, job_id: str, view: JobsViewDep) -> Response:
    """What its workflow does just now; no change in the registry tells that, so it is asked each time."""
    return render(request, "_partials/job_work.html", work=await view.execution(job_id))
