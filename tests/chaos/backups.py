"""What must be true of backups: each that is told to be there is whole, and has the rows of its moment.

Like the checker, it imports none of the product's code: how a backup is stored is written down here a second
time, from its documentation.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.evidence import ROWS, Contents, History, connected
from tests.chaos.violations import Kind, Violation

_BACKUPS = """
SELECT id::text, mark::text, storedid::text AS stored_id, sha256, verification_error,
       kind = 'final' AND provenid = storedid AS is_proven
FROM (SELECT *, verificationerror AS verification_error FROM adminapi.backups) AS backups
WHERE finishedat IS NOT NULL AND deletedat IS NULL
"""
_BACKED_UP_AND_PURGED = """
SELECT mark::text, format('instance %s (''%s'')', instance.id, name) AS words
FROM adminapi.dbinstances AS instance JOIN adminapi.databases AS own
    ON own.instanceid = instance.id AND own.databaseid = instance.databaseid
WHERE operation = 'Purge' AND arguments @> '{"backup_first": true}' AND reason IS NULL
"""
_PROGRAMS = ("pg_dump", "pg_restore")
_ROW = re.compile(r"^(\d+)\t([0-9a-f-]{36})$", re.MULTILINE)


@dataclass(frozen=True)
class BackupSource:
    """Where backups are, and what reads them.

    Attributes:
        folder: the store.
        pg_restore: the program.
        admin_dsn: a superuser's address of the registry.
        port: of the server, which the programs of its backups name.
    """

    folder: Path
    pg_restore: str
    admin_dsn: str
    port: str


@dataclass(frozen=True)
class Stored:
    """A backup in the store, by its manifest; `sha256` is that of its dump, `rows` those that it has."""

    id: str
    mark: str
    promised: str
    sha256: str | None
    rows: Mapping[int, str]


async def judged(source: BackupSource, history: History) -> Sequence[Violation]:
    """All that is wrong with backups, once no job is under way."""
    async with connected(source.admin_dsn) as registry:
        known = {row["stored_id"]: dict(row) for row in await registry.fetch(_BACKUPS)}
        purged = {row["mark"]: row["words"] for row in await registry.fetch(_BACKED_UP_AND_PURGED)}
    stored = {found.id: found for found in [await _read(source, it) for it in _manifests(source.folder)]}
    return [
        *_incomplete(known, stored, history),
        *_unknown(known, stored, history),
        *_final(purged, known, stored, history),
        *(Violation(Kind.ORPHAN_PROCESS, words) for words in _programs(source.port)),
    ]


def _manifests(folder: Path) -> Sequence[Path]:
    return sorted(folder.glob("*/*/*/manifest.json"))


async def _read(source: BackupSource, manifest: Path) -> Stored:
    dump = manifest.parent / "database.dump"
    sha256 = _sha256(dump)
    rows = await _rows(source.pg_restore, dump) if sha256 else {}
    said = json.loads(await asyncio.to_thread(manifest.read_text))
    return Stored(manifest.parent.name, said["mark"], said["sha256"], sha256, rows)


def _sha256(file: Path) -> str | None:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else None


async def _rows(pg_restore: str, dump: Path) -> Mapping[int, str]:
    """Number and mark of each row that clients had written, by `pg_restore` alone."""
    options = ("--data-only", f"--table={ROWS}", "--file=-", str(dump))
    process = await asyncio.create_subprocess_exec(pg_restore, *options, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return {int(number): mark for number, mark in _ROW.findall(output.decode())}


def _incomplete(
    known: Mapping[str, Mapping[str, Any]], stored: Mapping[str, Stored], history: History
) -> Iterator[Violation]:
    for row in known.values():
        found, words = stored.get(row["stored_id"]), f"backup {row['id']} of the mark {row['mark']}"
        if found is None and row["mark"] in history.changed:
            continue  # a restore of the registry may have brought back the row of a backup that was deleted
        if found is None or found.sha256 != found.promised or found.sha256 != row["sha256"]:
            yield Violation(Kind.BROKEN_BACKUP, f"{words}: {found or 'is not stored'}")
        elif row["verification_error"]:
            yield Violation(Kind.BROKEN_BACKUP, f"{words}: {row['verification_error']}")
        elif missing := history.backups.get(row["id"], Contents()).numbers - set(found.rows):
            yield Violation(Kind.LOST_ROWS, f"{words}: {len(missing)} rows, such as {min(missing)}")
        elif strangers := set(found.rows.values()) - history.holds(row["mark"]).marks:
            yield Violation(Kind.CROSSED, f"{words} has rows of the marks {sorted(strangers)}")


def _final(
    purged: Mapping[str, str],
    known: Mapping[str, Mapping[str, Any]],
    stored: Mapping[str, Stored],
    history: History,
) -> Iterator[Violation]:
    """Each instance that was backed up and purged has a backup, verified by its purge, with all its rows."""
    proven = {row["mark"]: stored.get(row["stored_id"]) for row in known.values() if row["is_proven"]}
    for mark, instance in purged.items():
        if mark in history.changed:
            continue  # a restore of the registry may have lost the row of the backup
        found = proven.get(mark)
        if found is None:
            yield Violation(Kind.NO_FINAL_BACKUP, f"{instance}, mark {mark}")
        elif missing := history.holds(mark).numbers - set(found.rows):
            words = f"final backup {found.id} of {instance}: {len(missing)} rows, such as {min(missing)}"
            yield Violation(Kind.LOST_ROWS, words)


def _unknown(
    known: Mapping[str, Mapping[str, Any]], stored: Mapping[str, Stored], history: History
) -> Iterator[Violation]:
    """What is stored without a row that knows it should have been recorded by a pass."""
    for found in stored.values():
        if found.id not in known and found.mark not in history.changed:
            yield Violation(Kind.UNKNOWN_BACKUP, f"{found.id} of the mark {found.mark}")


def _programs(port: str) -> Iterator[str]:
    """The programs that still work for backups on the server with this port."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if Path(words[0]).name in _PROGRAMS and any(port in word for word in words[1:]):
            yield f"{entry.name}: {' '.join(words)[:200]}"
