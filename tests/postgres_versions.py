"""`make test-postgres`: the tests that depend on PostgreSQL's version, on one version after the other.

    .venv/bin/python -m tests.postgres_versions --versions 16,17 tests/postgres

At the end it prints how many tests passed, failed and were skipped on each version, and which did not pass on
all, with the reason. The exit code is 0 if none failed, and every version is installed.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from ods.embedded.errors import CommandError
from ods.embedded.postgres_binaries import PostgresVersion, binaries_of, installed

_PATHS = (
    *("tests/postgres", "tests/backups", "tests/end_to_end", "tests/faults", "tests/api/test_adoption.py"),
    *(
        f"tests/embedded/test_{name}.py"
        for name in ("demo", "embedded_postgres", "embedded_stack", "existing_server", "seeding")
    ),
)
"""What works on databases, and what starts servers; the rest of the API depends on tables alone."""
_TOGETHER = ("--numprocesses", "3", "--dist", "loadfile", "--no-loadscope-reorder")
_RUNS = (("not timed and not pgbouncer and not age and not large", _TOGETHER), ("timed", ()))
"""As `make test` does: tests that measure durations run with no other test beside them."""
_NONE_CHOSEN = 5
"""pytest's exit code when the paths have no such test."""


@dataclass(frozen=True)
class Outcome:
    """How a test ended: `passed`, `failed` or `skipped`, and why it was skipped."""

    kind: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.reason})" if self.reason else self.kind


@dataclass(frozen=True)
class Run:
    """The tests on one version.

    Attributes:
        release: the server's version, such as 17.10; why there was none if it could not be run.
        seconds: how long it took.
        complete: whether pytest ran to its end and saw no failure.
        outcomes: by the test's id.
    """

    release: str
    seconds: float = 0
    complete: bool = False
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)

    def count(self, kind: str) -> int:
        """How many tests ended so."""
        return Counter(outcome.kind for outcome in self.outcomes.values())[kind]


def read_outcomes(report: Path) -> Iterator[tuple[str, Outcome]]:
    """Each test of a JUnit report of pytest, and how it ended."""
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest has just written it
        name = f"{case.get('classname', '').replace('.', '/')}::{case.get('name')}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            yield name, Outcome("failed")
        elif skipped is not None:
            yield name, Outcome("skipped", skipped.get("message", ""))
        else:
            yield name, Outcome("passed")


def report(runs: Mapping[PostgresVersion, Run]) -> Iterator[str]:
    """The lines to print about the runs."""
    yield f"{'PostgreSQL':<12}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}"
    for version, run in runs.items():
        if run.outcomes:
            counts = f"{run.count('passed'):>8}{run.count('failed'):>8}{run.count('skipped'):>9}"
            yield f"{run.release:<12}{counts}{run.seconds:>9.0f}"
        else:
            yield f"{version:<12}  not run: {run.release}"
    tests = sorted({test for run in runs.values() for test in run.outcomes})
    different = [line for test in tests for line in _difference(test, runs)]
    yield "Not passed on every version:" if different else "Every test passed on every version."
    yield from different


def _difference(test: str, runs: Mapping[PostgresVersion, Run]) -> Iterator[str]:
    """The test and how it ended on each version, unless it passed on all."""
    found = {
        version: str(run.outcomes.get(test, Outcome("not run")))
        for version, run in runs.items()
        if run.outcomes
    }
    if set(found.values()) != {"passed"}:
        yield f"  {test}"
        yield from (f"    {version}: {outcome}" for version, outcome in found.items())


def _run(version: PostgresVersion, arguments: Sequence[str]) -> Run:
    try:
        programs = installed(version) / binaries_of(version).programs
    except CommandError as error:
        return Run(str(error))
    outcomes: dict[str, Outcome] = {}
    complete, started = True, monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for number, (marked, options) in enumerate(_RUNS):
            junit = Path(folder) / f"{number}.xml"
            selection = ("-m", marked, f"--junitxml={junit}", "-o", "junit_family=xunit1")
            code = subprocess.run(  # noqa: S603 - our own tests
                [sys.executable, "-m", "pytest", "-q", *options, *selection, *arguments],
                env=os.environ | {"TEST_POSTGRES_VERSION": version},
                check=False,
            ).returncode
            complete = complete and code in {0, _NONE_CHOSEN}
            outcomes |= dict(read_outcomes(junit)) if junit.exists() else {}
    return Run(_release(programs / "postgres"), monotonic() - started, complete, outcomes)


def _release(program: Path) -> str:
    told = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout  # noqa: S603 - from the wheel
    (found,) = re.findall(r"\) (\S+)", told)
    return str(found)


def chosen(words: Sequence[str] | None = None) -> tuple[Sequence[PostgresVersion], list[str]]:
    """The versions that a command line names, or all, and the arguments of pytest.

    Args:
        words: those of the command line; by default, of this process.
    """
    parser = argparse.ArgumentParser(prog="make test-postgres", description=__doc__)
    parser.add_argument("--versions", type=_versions, default=list(PostgresVersion), metavar="16,17,18")
    found, arguments = parser.parse_known_args(words)
    if not any(Path(word.partition("::")[0]).exists() for word in arguments):
        arguments = [*_PATHS, *arguments]
    return found.versions, arguments


def _versions(text: str) -> list[PostgresVersion]:
    return [PostgresVersion(version) for version in text.split(",")]


def main() -> int:
    """Run what the command line says; returns the exit code."""
    versions, arguments = chosen()
    runs = {version: _run(version, arguments) for version in versions}
    print("", *report(runs), sep="\n")  # noqa: T201 - what the command is for
    return 0 if all(run.complete for run in runs.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
