"""Following a job until it has finished."""

from time import monotonic

from cli.client import AdminApi, Json
from cli.output import progress


def follow(api: AdminApi, accepted: Json, *, quietly: bool = False) -> None:
    """Wait for the job of an `accepted` request, showing phase, time and estimate unless `quietly`.

    Raises:
        CommandError: the job failed.
    """
    if quietly:
        api.wait_for(accepted["jobId"])
        return
    started = monotonic()
    with progress() as show:

        def show_progress() -> None:
            for row in api.instances(id=accepted["id"]):
                show(f"{row['name']}: {_phase(row)}", f"({monotonic() - started:.1f} s{_estimate(row)})")

        api.wait_for(accepted["jobId"], show_progress)


def _phase(row: Json) -> str:
    return str(row["progress"]["phase"] if row["progress"] else row["status"])


def _estimate(row: Json) -> str:
    seconds = row["progress"] and row["progress"]["estimatedSeconds"]
    return f" of about {seconds:.1f} s" if seconds is not None else ""
