"""Following a job until it has finished."""

from time import monotonic

from cli.client import AdminApi, Json, completed
from cli.output import progress


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
    started = monotonic()
    with progress() as show:

        def show_progress(_: Json) -> None:
            for row in api.instances(id=instance):
                show(f"{row['name']}: {_phase(row)}", f"({monotonic() - started:.1f} s{_estimate(row)})")

        return api.wait_for_end(job, show_progress)


def _phase(row: Json) -> str:
    return str(row["progress"]["phase"] if row["progress"] else row["status"])


def _estimate(row: Json) -> str:
    seconds = row["progress"] and row["progress"]["estimatedSeconds"]
    return f" of about {seconds:.1f} s" if seconds is not None else ""
