"""`make mutants`: change the code that can lose data, one place at a time, and see that a test fails.

    make mutants                                                 # everything, for hours
    make mutants ARGS="ods/databases/adoption.py --sample 20"        # twenty changes of one module

Works on a copy of the tree, which it removes. What survived, and why, is in `tests/mutants.md`.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.testing import run_tests
from cosmic_ray.work_db import use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome

_ROOT = Path(__file__).parents[1]
_SECONDS = 600
_LEFT_OUT = ("BitOr", "NumberReplacer")
"""In types, `|` means no arithmetic; nearly all numbers are timeouts, which no test measures."""

_ACTIVITIES = (
    "tests/postgres/test_database_activities.py",
    *(f"tests/end_to_end/test_{life}.py" for life in ("instance_life", "rename", "failures", "cancelling")),
)
_BACKUPS = ("tests/backups/test_interrupted.py", "tests/backups/test_round_trip.py")
_BACKUP_ROWS = ("tests/postgres/test_final_backup_rows.py", "tests/postgres/test_scheduled_backups.py")
_TRASH_ROWS = (
    *("tests/postgres/test_trash_rows.py", "tests/postgres/test_trash_life_cycle.py"),
    *("tests/postgres/test_cancelled_drops.py", "tests/postgres/test_life_cycle.py"),
    *("tests/postgres/test_status_words.py", "tests/postgres/test_sweep.py"),
)
_TEMPLATES = tuple(f"tests/postgres/test_template_{part}.py" for part in ("load", "exchange"))
_TESTS: dict[str, tuple[str, ...]] = {
    "ods/registry/backups/expiry.py": _BACKUP_ROWS,
    "ods/registry/backups/records.py": _BACKUP_ROWS,
    "ods/registry/backups/retention.py": ("tests/unit/test_retention.py", *_BACKUP_ROWS),
    "ods/registry/backups/rows.py": (*_BACKUP_ROWS, "tests/postgres/test_reset_origins.py"),
    "ods/registry/instances/cancelling.py": (*_TRASH_ROWS, "tests/api/test_cancelling.py"),
    "ods/registry/instances/deletes.py": (*_TRASH_ROWS, "tests/api/test_abandoning.py"),
    "ods/registry/instances/steps.py": _TRASH_ROWS,
    "ods/registry/instances/versions.py": ("tests/postgres/test_reset_rows.py", *_TRASH_ROWS),
    "ods/model/operations.py": ("tests/unit/test_operations.py", "tests/postgres/test_life_cycle.py"),
    "ods/registry/instances/ods_routing.py": (
        "tests/postgres/test_trash_rows.py",
        "tests/end_to_end/test_trash.py",
    ),
    "ods/registry/instances/reservations.py": (
        "tests/postgres/test_instance_store.py",
        "tests/postgres/test_rename.py",
    ),
    "ods/backups/backing_up.py": _BACKUPS,
    "ods/backups/copying.py": ("tests/postgres/test_copies.py", "tests/backups/test_hidden_secrets.py"),
    "ods/backups/dumping.py": (*_BACKUPS, "tests/backups/test_stalled_store.py"),
    "ods/backups/markers.py": ("tests/backups/test_interrupted.py",),
    "ods/backups/restoring.py": _BACKUPS,
    "ods/backups/storage.py": (
        *("tests/backups/test_store_faults.py", "tests/backups/test_stalled_store.py"),
        "tests/backups/test_interrupted.py",
    ),
    "ods/backups/stored_backups.py": _BACKUPS,
    "ods/cli/fetched_files.py": ("tests/unit/test_fetched_files.py",),
    "ods/databases/adoption.py": ("tests/postgres/test_handing_over.py", "tests/api/test_adoption.py"),
    "ods/databases/changing.py": (
        "tests/postgres/test_lock_holders.py",
        *("tests/postgres/test_renaming.py", "tests/postgres/test_dropping.py"),
        "tests/postgres/test_trash.py",
    ),
    "ods/databases/copying.py": ("tests/postgres/test_copies.py", "tests/end_to_end/test_likeness.py"),
    "ods/databases/droppable.py": (
        *("tests/postgres/test_dropping.py", "tests/postgres/test_trash.py"),
        *("tests/postgres/test_trash_backup.py", "tests/postgres/test_replacing.py"),
    ),
    "ods/databases/dropping.py": ("tests/postgres/test_dropping.py", "tests/postgres/test_lookup.py"),
    "ods/databases/education_organizations/reading.py": ("tests/postgres/test_education_organizations.py",),
    "ods/databases/errors.py": ("tests/unit/test_database_errors.py", "tests/postgres/test_provisioning.py"),
    "ods/databases/rights/inner.py": (
        "tests/postgres/test_inner_rights.py",
        "tests/end_to_end/test_likeness.py",
    ),
    "ods/databases/inspection/listing.py": ("tests/postgres/test_drift.py", "tests/api/test_adoption.py"),
    "ods/databases/locales.py": ("tests/end_to_end/test_likeness.py",),
    "ods/databases/lookup.py": ("tests/postgres/test_lookup.py", "tests/postgres/test_provisioning.py"),
    "ods/databases/ownership.py": ("tests/unit/test_ownership.py", "tests/postgres/test_provisioning.py"),
    "ods/databases/provisioning.py": (
        *("tests/postgres/test_provisioning.py", "tests/postgres/test_dropping.py"),
        "tests/postgres/test_spares.py",
    ),
    "ods/databases/activating.py": ("tests/postgres/test_renaming.py", "tests/postgres/test_trash.py"),
    "ods/databases/scratch.py": ("tests/end_to_end/test_backups.py", "tests/faults/test_backups.py"),
    "ods/databases/server.py": ("tests/postgres/test_keepalive.py", "tests/postgres/test_fence.py"),
    "ods/databases/templates/spare_pool.py": ("tests/unit/test_spares.py", "tests/postgres/test_spares.py"),
    "ods/databases/statements.py": (
        *("tests/postgres/test_provisioning.py", "tests/postgres/test_dropping.py"),
        "tests/postgres/test_analysis.py",
    ),
    "ods/databases/templates/reports.py": _TEMPLATES,
    "ods/databases/templates/loading.py": _TEMPLATES,
    "ods/databases/templates/marks.py": _TEMPLATES,
    "ods/databases/retiring.py": ("tests/postgres/test_trash.py",),
    "ods/databases/templates/spares.py": ("tests/unit/test_spares.py", "tests/postgres/test_spares.py"),
    "activities/compensation.py": _ACTIVITIES,
    "activities/databases.py": (*_ACTIVITIES, "tests/end_to_end/test_reset.py"),
    "activities/education_organizations.py": ("tests/end_to_end/test_education_organizations.py",),
    "activities/errors.py": ("tests/unit/test_activity_errors.py",),
    "activities/following.py": _ACTIVITIES,
    "activities/job_fence.py": _ACTIVITIES,
    "activities/provisioner.py": _ACTIVITIES,
    "activities/endings.py": ("tests/postgres/test_status_activities.py", *_ACTIVITIES),
    "activities/passes.py": (
        *("tests/postgres/test_database_activities.py", "tests/postgres/test_sweep.py"),
        "tests/end_to_end/test_passes.py",
        "tests/end_to_end/test_trash.py",
    ),
    "activities/spares.py": ("tests/unit/test_refill_requests.py", "tests/end_to_end/test_spares.py"),
    "activities/statuses.py": ("tests/postgres/test_status_activities.py", *_ACTIVITIES),
    "ods/recovery/adoption.py": (
        *("tests/postgres/test_drift.py", "tests/postgres/test_handing_over.py"),
        *("tests/api/test_adoption.py", "tests/end_to_end/test_trash.py", "tests/end_to_end/test_reset.py"),
    ),
    "ods/tenants/known_store.py": (
        "tests/postgres/test_known_store.py",
        "tests/postgres/test_store_claims.py",
    ),
}
"""The tests that must notice a change of each module."""


def main() -> None:
    """Exit with 1 if a change of a module was not noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="module", help="files; all of them by default")
    parser.add_argument(
        "--sample", type=int, help="how many changes of each module are tried; all by default"
    )
    parser.add_argument("--seed", type=int, default=1, help="chooses them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ods-mutants-") as folder:
        copy = Path(folder) / "tree"
        _copy_tree(copy)
        survived = [_try(module, copy, options.sample, options.seed) for module in options.modules or _TESTS]
    sys.exit(any(survived))


def _copy_tree(to: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],  # noqa: S607 - the developer's
        check=True,
        cwd=_ROOT,
        capture_output=True,
        text=True,
    ).stdout
    for name in listed.splitlines():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_ROOT / name, to / name)


def _try(module: str, tree: Path, sample: int | None, seed: int) -> bool:
    """Whether a change of `module` has survived; prints what became of them."""
    options = f"-q -x -m 'not timed' -p no:cacheprovider --rootdir {tree}"
    test = f"{sys.executable} -m pytest {options} {_paths(module, tree)}"
    outcome, output = run_tests(test, _SECONDS)
    if outcome is not TestOutcome.SURVIVED:
        sys.exit(f"{module}: its tests fail before anything is changed.\n{output}")
    changes, survived = _changes(tree / module, sample, seed), 0
    for change in changes:
        result = mutate_and_test([change], test, _SECONDS)
        if result.test_outcome is TestOutcome.SURVIVED:
            survived += 1
            _say(
                f"{module}:{change.start_pos[0]}: {change.operator_name}", *_changed_lines(result.diff or "")
            )
    _say(f"{module}: {len(changes)} changes tried, {survived} not noticed")
    return survived > 0


def _paths(module: str, tree: Path) -> str:
    return " ".join(str(tree / test) for test in _TESTS[module])


def _changes(path: Path, sample: int | None, seed: int) -> list[MutationSpec]:
    """What can be changed and means something, or a sample of that."""
    with use_db(":memory:") as work:
        init([path], work, {})
        every = [change for item in work.work_items for change in item.mutations]
    every = [it for it in every if not any(word in it.operator_name for word in _LEFT_OUT)]
    if sample is None or sample >= len(every):
        return every
    return random.Random(seed).sample(every, sample)  # noqa: S311 - no secret


def _changed_lines(diff: str) -> Iterable[str]:
    return (
        f"    {line}" for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in {"+++", "---"}
    )


def _say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)  # noqa: T201 - its output


if __name__ == "__main__":
    main()
