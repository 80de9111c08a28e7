"""*Cancel*: a job ends, and what it has done is undone. *Abandon*: the workflow of a failed job ends."""

from http import HTTPStatus

from fastapi import Request, Response

from api.services.jobs import JobServiceDep
from ods.console.forms import EMPTY, REFUSED, FormState, refusal_of
from ods.console.page import render, see_other
from ods.console.page_route import signed_in_router
from ods.console.session import ACTING
from ods.console.views.jobs import JobPage, JobsViewDep

router = signed_in_router()


@router.get("/jobs/{job_id}/cancel", dependencies=[ACTING])
async def show_cancelling(request: Request, job_id: str, view: JobsViewDep) -> Response:
    """The page before a job is cancelled."""
    return _page(request, "cancel", await view.job(job_id))


@router.post("/jobs/{job_id}/cancel")
async def cancel(request: Request, job_id: str, view: JobsViewDep, service: JobServiceDep) -> Response:
    """Cancel the job."""
    try:
        await service.cancel(job_id)
    except REFUSED as error:
        return _page(request, "cancel", await view.job(job_id), *refusal_of(request, EMPTY, error, {}))
    return see_other(request, f"/jobs/{job_id}")


@router.get("/jobs/{job_id}/abandon", dependencies=[ACTING])
async def show_abandoning(request: Request, job_id: str, view: JobsViewDep) -> Response:
    """The page before a failed job waits for no retry any longer."""
    return _page(request, "abandon", await view.job(job_id))


@router.post("/jobs/{job_id}/abandon")
async def abandon(request: Request, job_id: str, view: JobsViewDep, service: JobServiceDep) -> Response:
    """Abandon the job."""
    try:
        await service.abandon(job_id)
    except REFUSED as error:
        return _page(request, "abandon", await view.job(job_id), *refusal_of(request, EMPTY, error, {}))
    return see_other(request, f"/jobs/{job_id}")


def _page(
    request: Request, verb: str, page: JobPage, form: FormState = EMPTY, status: HTTPStatus = HTTPStatus.OK
) -> Response:
    return render(request, "end_job.html", status, verb=verb, page=page, form=form)
