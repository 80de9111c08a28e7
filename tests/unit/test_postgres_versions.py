"""What `make test-postgres` tells of its runs."""

from pathlib import Path

from ods.embedded.postgres_binaries import PostgresVersion
from tests.postgres_versions import Outcome, Run, chosen, read_outcomes, report

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.postgres.test_fence" name="test_one" />
<testcase classname="tests.postgres.test_fence" name="test_two"><skipped message="no such thing" /></testcase>
<testcase classname="tests.postgres.test_fence" name="test_three"><failure message="…" /></testcase>
<testcase classname="tests.postgres.test_fence" name="test_four"><error message="…" /></testcase>
</testsuite></testsuites>"""


def test_outcome_of_each_test_is_read_when_pytest_has_written_its_report(tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_text(JUNIT)
    assert dict(read_outcomes(tmp_path / "junit.xml")) == {
        "tests/postgres/test_fence::test_one": Outcome("passed"),
        "tests/postgres/test_fence::test_two": Outcome("skipped", "no such thing"),
        "tests/postgres/test_fence::test_three": Outcome("failed"),
        "tests/postgres/test_fence::test_four": Outcome("failed"),
    }


def test_difference_is_told_with_its_reason_when_a_version_lacks_something() -> None:
    alike = {"one": Outcome("passed")}
    runs = {
        PostgresVersion.V16: Run("PostgreSQL 16 is not installed."),
        PostgresVersion.V17: Run(
            "17.10", 61.4, complete=True, outcomes={"two": Outcome("skipped", "no x"), **alike}
        ),
        PostgresVersion.V18: Run("18.6", 60, complete=True, outcomes={"two": Outcome("passed"), **alike}),
    }
    assert list(report(runs)) == [
        "PostgreSQL    passed  failed  skipped  seconds",
        "16            not run: PostgreSQL 16 is not installed.",
        "17.10              1       0        1       61",
        "18.6               2       0        0       60",
        "Not passed on every version:",
        "  two",
        "    17: skipped (no x)",
        "    18: passed",
    ]


def test_nothing_differs_when_every_test_passed_on_every_version() -> None:
    run = Run("18.6", 60, complete=True, outcomes={"one": Outcome("passed")})
    assert list(report({PostgresVersion.V18: run}))[-1] == "Every test passed on every version."


def test_only_these_versions_and_files_are_chosen_when_the_command_line_names_them() -> None:
    assert chosen(["--versions", "16,17", "tests/postgres", "-x"]) == (["16", "17"], ["tests/postgres", "-x"])


def test_all_versions_and_what_depends_on_them_are_chosen_when_the_command_line_names_none() -> None:
    versions, arguments = chosen(["-x"])
    assert versions == ["16", "17", "18"]
    assert "tests/postgres" in arguments
    assert arguments[-1] == "-x"
