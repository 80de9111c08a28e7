import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle

from activities.backup_cleaning import CleaningReport
from activities.passes import Leftovers, PurgeReport, StuckPage, VersionsDue
from ods.recovery.compare.findings import Drift, DriftKind
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.versions import VersionPurge
from tests.workflows.conftest import Keep
from tests.workflows.script import Script, refused
from workflows.passes import Reconcile

Start: TypeAlias = Callable[[], Awaitable[WorkflowHandle[Any, str]]]


@pytest.fixture
def start(client: Client, queue: str) -> Start:
    async def start() -> WorkflowHandle[Any, str]:
        return await client.start_workflow(Reconcile.run, id=f"reconcile-{uuid.uuid4()}", task_queue=queue)

    return start


async def test_everything_is_looked_at_when_nothing_is_wrong(
    start: Start, script: Script, keep: Keep
) -> None:
    script.stuck = [StuckPage([], None)]
    handle = await start()
    assert await handle.result() == "0 jobs restarted, 0 leftovers removed, 0 contradictions, 0 purges."
    assert script.calls == [
        *("find_stuck after 0", "dispatch_refreshes", "remove_old_answers"),
        *("find_leftovers", "remove_snapshots", "report_drift", "purge_due"),
        *("claim_due_versions", "clean_backups"),
    ]
    assert "Registry and server agree." in str(await handle.query("__temporal_workflow_metadata"))
    await keep("reconcile-nothing", handle)


async def test_refreshes_are_dispatched_when_the_registry_was_away(
    start: Start, script: Script, keep: Keep
) -> None:
    script.stuck = [StuckPage([], None)]
    script.faults["dispatch_refreshes"] = [OSError("registry away")]
    handle = await start()
    assert await handle.result() == "0 jobs restarted, 0 leftovers removed, 0 contradictions, 0 purges."
    assert script.calls.count("dispatch_refreshes") == 2
    await keep("reconcile-refreshes", handle)


async def test_jobs_are_restarted_leftovers_removed_and_drift_told_when_there_are_any(
    start: Start, script: Script, keep: Keep, job: InstanceJob
) -> None:
    script.stuck = [StuckPage([job, job], 150), StuckPage([job], 170), StuckPage([], None)]
    script.leftovers = [Leftovers([job], more=True), Leftovers([replace(job, instance_id=8)], more=False)]
    script.purges = PurgeReport(2)
    script.drifts = [Drift(DriftKind.TEMPLATE_UNUSABLE, "T", "Close it.")]
    script.faults["compensate"] = [refused("It was retried meanwhile.")]
    handle = await start()
    assert await handle.result() == "3 jobs restarted, 1 leftovers removed, 1 contradictions, 2 purges."
    assert f"find_leftovers after {job.instance_id}" in script.calls
    assert "**TemplateUnusable** T: Close it." in str(await handle.query("__temporal_workflow_metadata"))
    await keep("reconcile-in-pages", handle)


async def test_other_jobs_are_restarted_when_one_cannot_be(
    start: Start, script: Script, keep: Keep, job: InstanceJob
) -> None:
    other = replace(job, instance_id=8)
    script.stuck = [StuckPage([job, other], 150), StuckPage([], None)]
    script.faults[f"restart {job.instance_id}"] = [OSError("its row is locked")] * 3
    handle = await start()
    assert await handle.result() == "1 jobs restarted, 0 leftovers removed, 0 contradictions, 0 purges."
    restarts = [call for call in script.calls if call.startswith("restart")]
    assert restarts == [f"restart {job.instance_id}"] * 3 + [f"restart {other.instance_id}"]
    assert script.calls[-1] == "clean_backups"
    await keep("reconcile-job-left", handle)


async def test_pass_fails_when_the_server_cannot_be_looked_at(
    start: Start, script: Script, keep: Keep
) -> None:
    script.stuck = [StuckPage([], None)]
    script.faults["find_leftovers"] = [OSError("server away")] * 3
    handle = await start()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert script.calls.count("find_leftovers") == 3
    await keep("reconcile-server-away", handle)


async def test_versions_are_dropped_when_their_time_is_over(
    start: Start, script: Script, keep: Keep, job: InstanceJob
) -> None:
    script.stuck = [StuckPage([], None)]
    purge = VersionPurge(
        *(
            5,
            "default",
            "0c6b1f6e-1111-4222-8333-444444444444",
            7,
            42,
            "Grand Bend",
            job.mark,
            job.database_id,
        ),
        *("ods_trash_7f2a_2", 2, job.policy),
    )
    script.versions = VersionsDue([purge, replace(purge, version_id=6)])
    script.faults["purge_version 5"] = [refused("It carries another comment.")]
    handle = await start()
    assert await handle.result() == "0 jobs restarted, 0 leftovers removed, 0 contradictions, 1 purges."
    assert script.calls[-4:-1] == ["claim_due_versions", "purge_version 5", "purge_version 6"]
    await keep("reconcile-versions", handle)


async def test_nothing_is_purged_when_the_registry_may_be_of_yesterday(
    start: Start, script: Script, keep: Keep
) -> None:
    script.stuck = [StuckPage([], None)]
    script.purges = PurgeReport(0, "RegistryPutBack 1 databases, 0 jobs")
    handle = await start()
    assert "no purges because of RegistryPutBack" in await handle.result()
    await keep("reconcile-purges-withheld", handle)


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (CleaningReport(removed=2), "0 purges, 2 backups removed."),
        (CleaningReport(obstacle="The store is full."), "0 purges, backups not cleaned: The store is full."),
        (
            CleaningReport(removed=1, recorded=2, missing=3, left="It is refused.", elsewhere=4, unknown=5),
            (
                "1 backups removed, 2 lost backups recorded, 3 recorded backups gone, 4 not in this store,"
                " 5 backups of unknown instances, not all of backups cleaned: It is refused."
            ),
        ),
        (None, "0 purges, backups not cleaned: server or registry is away."),
    ],
    ids=["removed", "refused", "left", "away"],
)
async def test_pass_tells_what_it_did_about_backups(
    start: Start, script: Script, keep: Keep, report: CleaningReport | None, words: str
) -> None:
    script.stuck = [StuckPage([], None)]
    if report is None:
        script.faults["clean_backups"] = [OSError("registry away")]
    else:
        script.cleaned = report
    handle = await start()
    assert (await handle.result()).endswith(words)
    await keep(f"reconcile-backups-{words.rsplit(maxsplit=1)[-1].strip('.')}", handle)
