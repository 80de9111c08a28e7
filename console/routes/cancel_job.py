"""*Cancel*: a job that waits or runs ends, and what it has done is undone."""

from http import HTTPStatus

from fastapi import Request, Response

from api.job_service import JobServiceDep
from console.forms import EMPTY, REFUSED, FormState, refusal_of
from console.page import render, see_other
from console.page_route import signed_in_router
from console.session import ACTING
from console.views.jobs import JobPage, JobsViewDep

router = signed_in_router()


@router.get("/jobs/{job_id}/cancel", dependencies=[ACTING])
async def show_form(request: Request, job_id: str, view: JobsViewDep) -> Response:
    """The page."""
    return _page(request, await view.job(job_id))


@router.post("/jobs/{job_id}/cancel")
async def cancel(request: Request, job_id: str, view: JobsViewDep, service: JobServiceDep) -> Response:
    """Cancel the job."""
    try:
        await service.cancel(job_id)
    except REFUSED as error:
        refused, status = refusal_of(request, EMPTY, error, {})
        return _page(request, await view.job(job_id), refused, status)
    return see_other(request, f"/jobs/{job_id}")


def _page(
    request: Request, page: JobPage, form: FormState = EMPTY, status: HTTPStatus = HTTPStatus.OK
) -> Response:
    return render(request, "cancel_job.html", status, page=page, form=form)
