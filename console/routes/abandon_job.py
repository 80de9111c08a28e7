"""*Abandon*: the workflow of a failed job ends, and waits for no retry any longer."""

from http import HTTPStatus

from fastapi import Request, Response

from api.job_service import JobServiceDep
from console.forms import EMPTY, REFUSED, FormState, refusal_of
from console.page import render, see_other
from console.page_route import signed_in_router
from console.session import ACTING
from console.views.jobs import JobPage, JobsViewDep

router = signed_in_router()


@router.get("/jobs/{job_id}/abandon", dependencies=[ACTING])
async def show_form(request: Request, job_id: str, view: JobsViewDep) -> Response:
    """The page."""
    return _page(request, await view.job(job_id))


@router.post("/jobs/{job_id}/abandon")
async def abandon(request: Request, job_id: str, view: JobsViewDep, service: JobServiceDep) -> Response:
    """Abandon the job."""
    try:
        await service.abandon(job_id)
    except REFUSED as error:
        refused, status = refusal_of(request, EMPTY, error, {})
        return _page(request, await view.job(job_id), refused, status)
    return see_other(request, f"/jobs/{job_id}")


def _page(
    request: Request, page: JobPage, form: FormState = EMPTY, status: HTTPStatus = HTTPStatus.OK
) -> Response:
    return render(request, "abandon_job.html", status, page=page, form=form)
