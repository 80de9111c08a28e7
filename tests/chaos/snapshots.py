"""What must be true of snapshots: each has the rows of its moment, and readers are led to the newest.

Like the checker, it imports none of the product's code.
"""

from collections.abc import Iterator, Mapping, Sequence

from cryptography.exceptions import InvalidSignature

from tests.chaos.evidence import Database, Evidence, Target, client_rows, decrypted
from tests.chaos.violations import Kind, Storm, Violation


async def judged(evidence: Evidence, storm: Storm, target: Target) -> Sequence[Violation]:
    """All that is wrong with snapshots, once no job is under way."""
    made = {it.snapshot: it for it in evidence.databases if it.snapshot is not None}
    rows = await client_rows(target, [it for it in made.values() if not it.invalid])
    return [
        *_wrong(evidence, storm, made, rows),
        *_surplus(evidence, made),
        *_misled(evidence, target),
    ]


def _wrong(
    evidence: Evidence, storm: Storm, made: Mapping[str, Database], rows: Mapping[str, Mapping[int, str]]
) -> Iterator[Violation]:
    for snapshot in evidence.snapshots:
        database = made.get(snapshot.mark)
        about = (snapshot.instance, (snapshot.database_name,))
        if snapshot.status == "Creating":
            yield Violation(Kind.UNFINISHED, str(snapshot), *about)
        elif snapshot.status != "Completed":
            continue  # the pass removes it when no session uses it, and its time has come
        elif database is None or database.name != snapshot.database_name or not database.open:
            yield Violation(Kind.NO_DATABASE, f"{snapshot}: {database}", *about)
        else:
            held = storm.history.snapshots.get(database.name)
            found = rows[database.name]
            if held and (missing := held.numbers - set(found)):
                words = f"{snapshot}: {len(missing)} rows, such as {min(missing)}"
                yield Violation(Kind.LOST_ROWS, words)
            if held and (strangers := set(found.values()) - held.marks):
                yield Violation(Kind.CROSSED, f"{snapshot} has rows of the marks {sorted(strangers)}")


def _surplus(evidence: Evidence, made: Mapping[str, Database]) -> Iterator[Violation]:
    known = {snapshot.mark for snapshot in evidence.snapshots}
    for mark, database in made.items():
        if mark not in known:
            words = f"{database.name} ({database.comment})"
            yield Violation(Kind.SURPLUS_DATABASE, words, database.snapshot_of, (database.name,))


def _misled(evidence: Evidence, target: Target) -> Iterator[Violation]:
    """Readers of a usable instance are led to its newest snapshot, if it has one."""
    newest = {it.ods_instance_id: it for it in evidence.snapshots if it.status == "Completed"}
    usable = {it.ods_instance_id for it in evidence.instances if it.is_complete}
    for number, snapshot in newest.items():
        led = _database(evidence.readers.get(number), target.encryption_key)
        if number in usable and led != snapshot.database_name:
            words = f"{snapshot}: readers are led to {led}"
            yield Violation(Kind.WRONG_CONNECTION_STRING, words, snapshot.instance, (snapshot.database_name,))


def _database(connection_string: str | None, key: bytes) -> str | None:
    try:
        return decrypted(connection_string or "", key).get("database")
    except (ValueError, InvalidSignature):
        return None
