"""`ods job …`: jobs from a terminal, through the service's HTTP API."""

from typing import Annotated

import typer

from ods.cli.api_access import connect
from ods.cli.following import follow_to_end
from ods.cli.options import DEFAULT_DATA_DIR, ApiUrl, AsJson, DataDir, require_given
from ods.cli.output import show_json, show_list, show_members
from ods.embedded.errors import CommandError
from ods.model.operations import JOB_WORDS, JobStatus

app = typer.Typer(no_args_is_help=True)

_MAX_JOBS = 10_000
_COLUMNS = {
    "jobId": "JOB",
    "operation": "OPERATION",
    "instanceId": "INSTANCE",
    "status": "STATUS",
    "createdAt": "CREATED",
    "finishedAt": "FINISHED",
    "errorMessage": "REASON",
}

JobId = Annotated[
    str,
    typer.Argument(metavar="JOB", callback=require_given, help="Id of the job.", show_default=False),
]


@app.command("list")
def list_newest(  # noqa: PLR0913 - a command line's options
    status: Annotated[
        list[str] | None, typer.Option(help=f"Only of this status: {', '.join(JobStatus)}. May be repeated.")
    ] = None,
    operation: Annotated[
        list[str] | None, typer.Option(help=f"Only of this kind: {', '.join(JOB_WORDS)}. May be repeated.")
    ] = None,
    instance: Annotated[
        int | None, typer.Option(help="Only jobs of the instance with this id.", show_default=False)
    ] = None,
    *,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only jobs created at this time or later: 2026-11-26T04:00, in UTC if it names no zone.",
            show_default=False,
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only jobs created before this time.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=_MAX_JOBS, help="How many of the newest jobs.")] = 25,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """List the newest jobs, the newest first."""
    with connect(api_url, data_dir) as api:
        rows = api.jobs(
            limit,
            status=status,
            operation=operation,
            instanceId=instance,
            createdFrom=since,
            createdTo=until,
        )
    if as_json:
        show_json(rows)
    else:
        show_list(rows, _COLUMNS)


@app.command()
def show(
    job: JobId, *, as_json: AsJson = False, api_url: ApiUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR
) -> None:
    """Show everything about a job."""
    with connect(api_url, data_dir) as api:
        found = api.job(job)
    (show_json if as_json else show_members)(found)


@app.command()
def cancel(
    job: JobId,
    *,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait until the job has ended; exit 1 if it was done all the same."),
    ] = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Cancel a job that waits or runs: what it has done is undone."""
    with connect(api_url, data_dir) as api:
        cancelled = api.cancel(job)
        if wait:
            cancelled = follow_to_end(api, job, cancelled["instanceId"], quietly=as_json)
            if cancelled["status"] == JobStatus.COMPLETED:
                raise CommandError(f"{job} was done before it could be cancelled.")
    (show_json if as_json else show_members)(cancelled)


@app.command()
def abandon(
    job: JobId, *, as_json: AsJson = False, api_url: ApiUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR
) -> None:
    """End the workflow of a failed job, which waits for a retry; the instance stays as it is."""
    with connect(api_url, data_dir) as api:
        abandoned = api.abandon(job)
    (show_json if as_json else show_members)(abandoned)
