"""Following a job until it has finished."""

from collections.abc import Callable

from ods.cli.client import AdminApi, Json, completed
from ods.cli.output import line_printer, progress


def follow(api: AdminApi, accepted: Json, *, quietly: bool = False) -> None:
    """Wait for the job of an `accepted` request, showing phase, time and estimate unless `quietly`.

    And for the purge that follows it, if one does.

    Raises:
        CommandError: a job failed.
    """
    completed(follow_to_end(api, accepted["jobId"], accepted["id"], quietly=quietly))
    if (purge := accepted.get("purgeJobId")) is not None:
        api.wait_for_job(purge, accepted["id"])
        completed(follow_to_end(api, purge, accepted["id"], quietly=quietly))


def follow_to_end(api: AdminApi, job: str, instance: int | None, *, quietly: bool = False) -> Json:
    """Wait until a job has finished or failed, showing what `follow` shows; returns the job as it is then.

    Args:
        api: where to ask.
        job: the job's id.
        instance: the id of its instance; None if it has none, and nothing is shown.
        quietly: show nothing.

    Raises:
        CommandError: the API has not answered for half a minute.
    """
    if quietly or instance is None:
        return api.wait_for_end(job)
    with progress() as show:

        def show_progress(_: Json) -> None:
            for row in api.instances(id=instance):
                show(f"{row['name']}: {_phase(row)}", _time(row))

        return api.wait_for_end(job, show_progress)


def wait_printer() -> Callable[[Json], None]:
    """Prints a line when a job waits for something else, such as an outage or the operator; takes the job."""
    show = line_printer()

    def show_wait(job: Json) -> None:
        if job["waiting"]:
            show(f"{job['jobId']} waits: {job['waiting']['for']}", "")

    return show_wait


def _phase(row: Json) -> str:
    if row["waiting"]:
        return f"waits: {row['waiting']['for']}"
    return str(row["progress"]["phase"] if row["progress"] else row["status"])


def _time(row: Json) -> str:
    """For how long the job has worked, and about how long such jobs take; nothing while it waits."""
    progress = row["progress"]
    if row["waiting"] or not progress:
        return ""
    usual = progress["estimatedSeconds"]
    return f"({progress['elapsedSeconds']:.1f} s{'' if usual is None else f' of about {usual:.1f} s'})"
