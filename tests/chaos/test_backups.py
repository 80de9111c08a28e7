"""The checker finds what is wrong with backups, and nothing where all is well."""

import hashlib
import json
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from ods.embedded.postgres import EmbeddedPostgres
from ods.programs.postgres import client_program
from tests.chaos.backups import BackupSource, judged
from tests.chaos.checker import check
from tests.chaos.conftest import Garden
from tests.chaos.evidence import Contents, History, Target, foreign_databases
from tests.chaos.violations import Kind, Storm

_STRANGER = "00000000-0000-0000-0000-000000000001"


@pytest.fixture
def source(tmp_path: Path, target: Target, postgres: EmbeddedPostgres) -> BackupSource:
    return BackupSource(tmp_path, client_program("pg_restore"), target.admin_dsn, str(postgres.port))


class Backup:
    """A backup of the garden's own instance, in perfect order, with the rows 1 and 2."""

    def __init__(self, garden: Garden, mark: str, folder: Path) -> None:
        self.id, self.stored, self.mark = str(uuid.uuid4()), str(uuid.uuid4()), mark
        self._garden = garden
        self.folder = folder / "default" / str(garden.number) / self.stored

    @property
    def dump(self) -> Path:
        """Its dump."""
        return self.folder / "database.dump"

    async def store(self) -> None:
        """Dump the database, and write the manifest and the row."""
        self.folder.mkdir(parents=True)
        address = f"{self._garden.dsn.rpartition('/')[0]}/{self._garden.database}"
        command = (client_program("pg_dump"), "--format=custom", f"--file={self.dump}", address)
        subprocess.run(command, check=True)  # noqa: ASYNC221, S603 - our own command, which is short
        sha256 = hashlib.sha256(self.dump.read_bytes()).hexdigest()
        manifest = self.folder / "manifest.json"
        manifest.write_text(json.dumps({"mark": self.mark, "sha256": sha256}))
        await self._garden.registry.execute(
            "INSERT INTO adminapi.backups (id, instanceid, odsinstanceid, mark, installation, name, kind,"
            " jobid, template, createdat, details, storedid, sha256, finishedat)"
            " SELECT $1, $2, $2, $3, id, 'Garden', 'requested', 'job', 'Minimal', now(), '{}', $4, $5, now()"
            " FROM adminapi.installation",
            *(self.id, self._garden.number, self.mark, self.stored, sha256),
        )


@pytest.fixture
async def backup(garden: Garden, source: BackupSource) -> Backup:
    await garden.plant_completed()
    mark = await garden.registry.fetchval("SELECT mark::text FROM adminapi.dbinstances")
    await garden.plant_rows(1, 2, mark=mark)
    made = Backup(garden, mark, source.folder)
    await made.store()
    return made


async def _kinds(source: BackupSource, history: History) -> list[Kind]:
    return [violation.kind for violation in await judged(source, history)]


async def test_nothing_is_found_when_a_backup_has_the_rows_of_its_moment(
    source: BackupSource, backup: Backup
) -> None:
    assert await _kinds(source, History(backups={backup.id: Contents(frozenset({1, 2}))})) == []


async def test_rows_are_lost_when_a_backup_has_not_those_that_were_there_before(
    source: BackupSource, backup: Backup
) -> None:
    assert await _kinds(source, History(backups={backup.id: Contents(frozenset({1, 3}))})) == [Kind.LOST_ROWS]


async def test_backup_is_broken_when_its_dump_was_changed_or_is_gone(
    source: BackupSource, backup: Backup
) -> None:
    backup.dump.write_bytes(backup.dump.read_bytes() + b"more")
    assert await _kinds(source, History()) == [Kind.BROKEN_BACKUP]
    backup.dump.unlink()
    assert await _kinds(source, History()) == [Kind.BROKEN_BACKUP]
    (backup.folder / "manifest.json").unlink()
    assert await _kinds(source, History()) == [Kind.BROKEN_BACKUP]
    assert await _kinds(source, History(changed={backup.mark})) == []


async def test_backup_is_broken_when_its_verification_has_failed(
    garden: Garden, source: BackupSource, backup: Backup
) -> None:
    await garden.registry.execute("UPDATE adminapi.backups SET verificationerror = 'A row is missing.'")
    assert await _kinds(source, History()) == [Kind.BROKEN_BACKUP]


async def test_backup_is_unknown_when_the_registry_has_no_finished_row_of_it(
    garden: Garden, source: BackupSource, backup: Backup
) -> None:
    await garden.registry.execute("UPDATE adminapi.backups SET storedid = $1", uuid.uuid4())
    found = await _kinds(source, History())
    assert found == [Kind.BROKEN_BACKUP, Kind.UNKNOWN_BACKUP]
    await garden.registry.execute("DELETE FROM adminapi.backups")
    assert await _kinds(source, History(changed={backup.mark})) == []


async def test_backup_is_crossed_when_it_has_the_rows_of_another_instance(
    garden: Garden, source: BackupSource, backup: Backup
) -> None:
    await garden.plant_rows(3, mark=_STRANGER)
    other = Backup(garden, backup.mark, source.folder)
    await other.store()
    assert await _kinds(source, History()) == [Kind.CROSSED]


async def test_instance_that_was_purged_after_a_backup_has_one_that_was_verified_with_all_its_rows(
    garden: Garden, source: BackupSource, backup: Backup
) -> None:
    history = History(rows={backup.mark: {1, 2}})
    await garden.registry.execute(
        "UPDATE adminapi.dbinstances"
        " SET operation = 'Purge', arguments = '{\"backup_first\": true}', status = 'Deleted'"
    )
    assert await _kinds(source, history) == [Kind.NO_FINAL_BACKUP]
    await garden.registry.execute("UPDATE adminapi.backups SET kind = 'final'")
    assert await _kinds(source, history) == [Kind.NO_FINAL_BACKUP]
    assert await _kinds(source, History(changed={backup.mark})) == []
    await garden.registry.execute("UPDATE adminapi.backups SET provenid = storedid")
    assert await _kinds(source, history) == []
    history.rows[backup.mark].add(3)
    assert await _kinds(source, history) == [Kind.LOST_ROWS]


async def test_program_is_found_when_it_goes_on_without_a_job(
    source: BackupSource, backup: Backup, tmp_path: Path
) -> None:
    program = tmp_path / "pg_dump"
    program.symlink_to(sys.executable)
    words = (str(program), "-c", "import time; print(flush=True); time.sleep(60)", f"127.0.0.1:{source.port}")
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:  # noqa: ASYNC220, S603 - our own command
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert await _kinds(source, History()) == [Kind.ORPHAN_PROCESS]
        finally:
            process.kill()
    assert await _kinds(source, History()) == []


@pytest.mark.parametrize(("job", "message"), [("Completed", None), ("Error", "The store is full.")])
async def test_instance_is_in_order_when_its_last_job_worked_beside_it(
    garden: Garden, target: Target, job: str, message: str | None
) -> None:
    before = Storm(foreign=await foreign_databases(target))
    await garden.plant_completed()
    await garden.plant_job("Backup", 2, job, garden.number)
    await garden.registry.execute(
        "UPDATE adminapi.dbinstances"
        " SET operation = 'Backup', arguments = '{}', jobnumber = 2, errormessage = $1",
        message,
    )
    assert await check(target, before, 0.2) == []
    await garden.registry.execute("UPDATE adminapi.dbinstances SET errormessage = 'Another.'")
    found = [violation.kind for violation in await check(target, replace(before), 0.2)]
    assert found == ([] if job == "Error" else [Kind.DISAGREEMENT])
