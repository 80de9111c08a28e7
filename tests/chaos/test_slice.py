"""A short campaign: what `make chaos` does for as long as it is told to."""

from pathlib import Path

import pytest

from ods.embedded.data_folder import DataFolder
from tests.chaos.campaign import Plan, campaign, drift_command
from tests.chaos.checker import check_drift
from tests.chaos.evidence import Target, connected
from tests.chaos.faults import Blow, Fault, Victim, plan, seeded
from tests.chaos.violations import Kind, Storm
from tests.embedded.conftest import port_options, running
from tests.servers import server_folder

_HEARTBEAT_TIMEOUT = 2
_SEED = 7
_OVERTIME = 60
"""Seconds: a slow machine does everything, too."""
_FAULTS = (
    Fault(Victim.WORKER, Blow.KILL, 0),
    Fault(Victim.POSTGRES, Blow.KILL, 0),
    Fault(Victim.API, Blow.STOP, 1),
    Fault(Victim.TEMPORAL, Blow.KILL, 0),
    Fault(Victim.BACKEND, Blow.TERM, 0),
)


async def _assert_drift_is_found(folder: Path) -> None:
    name = "EdFi_Ods_Planted_Minimal"
    async with connected(Target.of_stack(folder).master_dsn) as server:
        await server.execute(f'CREATE DATABASE "{name}"')
    found = await check_drift(drift_command(folder), Storm())
    assert [drift.kind for drift in found if name in drift.words] == [Kind.DRIFT]


@pytest.mark.faults
@pytest.mark.timeout(300)
async def test_nothing_is_lost_stuck_or_doubled_when_everything_dies_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODS_HEARTBEAT_TIMEOUT", str(_HEARTBEAT_TIMEOUT))
    # What a killed worker left of a spare, the next pass removes.
    monkeypatch.setenv("ODS_RECONCILE_INTERVAL", "10")
    storm = Plan(_SEED, 24, 8, _OVERTIME, 0.5, iter(_FAULTS), least_faults=len(_FAULTS))
    told: list[str] = []
    with server_folder() as parent:
        folder = DataFolder(parent / "data")
        async with running(folder, port_options(), tmp_path / "up.log"):
            outcome = await campaign(folder.path, storm, _HEARTBEAT_TIMEOUT, told.append)
            await _assert_drift_is_found(folder.path)
    assert (outcome.violations, outcome.ledger.oddities) == ([], []), "\n".join(told)
    struck = [fault for it in outcome.recoveries for fault in (it.fault, it.second) if fault]
    assert struck == list(_FAULTS)
    assert outcome.ledger.operations.total() == 24


async def test_drift_is_reported_when_the_product_cannot_be_asked(tmp_path: Path) -> None:
    (found,) = await check_drift(drift_command(tmp_path), Storm())
    assert found.kind is Kind.DRIFT


def _first(count: int, seed: int) -> list[Fault]:
    faults = plan(seeded(seed), 5)
    return [next(faults) for _ in range(count)]


def _kinds(faults: list[Fault]) -> set[tuple[Victim, Blow]]:
    return {(fault.victim, fault.blow) for fault in faults}


def test_every_fault_comes_when_the_plan_goes_once_round() -> None:
    faults = _first(30, 1)
    assert len(_kinds(faults[:15])) == len(_kinds(faults[15:])) == 15


def test_plan_repeats_when_the_seed_does() -> None:
    assert _first(40, 1) == _first(40, 1)
    assert _first(40, 1) != _first(40, 2)
