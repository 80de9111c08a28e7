"""The benchmark from end to end, in its tiniest form: that it runs, not what it finds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measurement import Findings, Limit, Measurement, at_least, at_most, percentile
from benchmarks.report import Section, is_good
from tests.deployment.compose import ROOT


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
        cwd=ROOT,
    )


@pytest.mark.long
def test_table_json_and_plot_are_made_when_a_section_runs(tmp_path: Path) -> None:
    done = bench("--quick", "--only", "lists", "--results", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for told in ("processor: ", "postgresql: 18", "temporal: 1.", "bare query, by name", "<= 20 ms"):
        assert told in done.stdout
    found = json.loads((tmp_path / "bench.json").read_text())
    (section,) = found["sections"]
    bare, listed, *_ = section["measurements"]
    assert (section["broken"], listed["bare"]) == (False, bare["name"])
    assert listed["ratio"] == pytest.approx(listed["median"] / bare["median"])
    assert len(section["limits"]) == 5
    assert (tmp_path / "lists.png").read_bytes().startswith(b"\x89PNG")


def test_sections_are_named_when_an_unknown_one_is_asked_for() -> None:
    refused = bench("--only", "lists,speed")
    assert refused.returncode == 2
    assert "no section is called speed; there are lists, sweep" in refused.stderr


def section(*limits: Limit) -> Section:
    return Section("one", "One", 1, Findings([Measurement("bare", [1.0])], limits))


KEPT, MISSED = at_most("kept", 1, 1), at_least("missed", 1, 2)
BROKEN = Section("broken", "Broken", 1, None)


@pytest.mark.parametrize(
    ("sections", "quick", "good"),
    [
        ([section(KEPT), section()], False, True),
        ([section(KEPT, MISSED)], False, False),
        ([section(KEPT, MISSED)], True, True),
        ([section(KEPT), BROKEN], False, False),
        ([section(KEPT), BROKEN], True, False),
    ],
)
def test_run_is_good_when_all_sections_end_and_keep_their_limits(
    sections: list[Section],
    quick: bool,  # noqa: FBT001 - a parameter of the test
    good: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    assert is_good(sections, quick=quick) is good


def test_ratio_is_that_of_the_medians_when_there_is_a_bare_cost() -> None:
    bare = Measurement("bare", [1.0, 2.0, 30.0])
    assert Measurement("ours", [3.0, 4.0, 500.0], bare=bare).ratio == 2
    assert bare.ratio is None


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100)])
def test_percentile_is_exceeded_by_the_rest_when_values_are_sorted(share: float, value: int) -> None:
    assert percentile(range(100, 0, -1), share) == value
