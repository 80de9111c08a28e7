"""Making a backup: the dump of one moment is stored, and then its manifest, which makes it visible."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from ods.backups.channels import unchanged
from ods.backups.client_programs import find_program, major
from ods.backups.dumping import Dump, DumpSource, dumping
from ods.backups.encryption import encrypting
from ods.backups.errors import BackupFaultError, explained_by, translate_database_faults
from ods.backups.figures import count_rows, lower_values, read_sequences
from ods.backups.forms import Form, read_form, require_same_form
from ods.backups.layout import dump_of, manifest_of, marker_of
from ods.backups.manifest import (
    FORMAT_VERSION,
    BackupKey,
    BackupKind,
    BackupRequest,
    Figures,
    Manifest,
    read_manifest,
)
from ods.backups.markers import marked
from ods.backups.monitoring import Monitor
from ods.backups.snapshots import Database, Snapshot, Table, snapshot
from ods.backups.storage import BackupStore
from ods.backups.stored_backups import delete_backup, has_dump
from ods.databases.statements import fetch_rows

_CLEANUP_SECONDS = 10
_FACTS = """
SELECT pg_export_snapshot() AS snapshot, split_part(current_setting('server_version'), ' ', 1) AS version,
       pg_database_size(current_database()) AS bytes
"""


@dataclass(frozen=True)
class _Moment:
    """What is known of a database at the moment that a dump shows.

    pg_dump sees it under the name `exported`. `form` is what had a form.
    """

    snapshot: Snapshot
    exported: str
    at: datetime
    version: str
    size_bytes: int
    sequences: Mapping[str, int | None]
    form: Form


async def back_up(
    database: Database,
    store: BackupStore,
    request: BackupRequest,
    monitor: Monitor,
    recipients: Sequence[str] = (),
) -> Manifest:
    """Make a backup of a database, which goes on being used.

    If this raises or is cancelled, there is no backup; what may be left is for `remove_unfinished`. Only if
    that happens during the last step, there may be one, which is whole: a store can carry out the request for
    the manifest later. A backup has one writer at a time.

    Without `recipients`, public keys of age, the backup is not encrypted.

    Raises:
        BackupFaultError: pg_dump is missing, older than the server, or has failed; a recipient is no public
            key; the store or the server is away or refuses; the form of the database has changed meanwhile.
    """
    transform = encrypting(recipients) if recipients else unchanged
    with translate_database_faults():
        async with _moment(database) as moment:
            program = await find_program("pg_dump", major(moment.version))
            program.require_suits(moment.version)
            async with _cleaned_up(store, request.key), marked(store, request.key) as marker:
                source = DumpSource(
                    database,
                    program_label(request.mark),
                    moment.exported,
                    moment.snapshot.tables,
                    moment.snapshot.read_only,
                    moment.snapshot.encoding,
                )
                async with dumping(program, source, transform, monitor) as dump:
                    same_form = partial(require_same_form, database, moment.form)
                    path = dump_of(request.key, encrypted=bool(recipients))
                    async with explained_by(moment.snapshot.require_open, same_form):
                        figures = await _stored(store, path, dump, moment, _counted(moment, request.kind))
                    await same_form()
                if recipients and request.kind is BackupKind.FINAL:
                    _require_in_dump(moment.snapshot.extension_tables, figures)
                content = _manifest(request, moment, dump, figures, recipients).to_json()
                manifest = read_manifest(content)
                marker.require_fresh()
            # What fails now cleans nothing up: the manifest could come to be after its dump was deleted.
            await store.write(manifest_of(request.key), content)
    await _require_dump(store, manifest)
    with suppress(BackupFaultError):  # beside the manifest it says nothing
        await store.delete(marker_of(request.key))
    return manifest


async def _require_dump(store: BackupStore, manifest: Manifest) -> None:
    """Take the manifest back if the dump is not there any more.

    If the clock of the store was set ahead meanwhile, a pass may have taken it for a dead writer's.
    """
    if not await has_dump(store, manifest):
        await store.delete(manifest_of(manifest.key))
        raise BackupFaultError(
            "The dump was removed from the store while its rows were counted: the store's clock may have been"
            " set. The backup was given up.",
            outage=True,
        )


def program_label(mark: UUID) -> str:
    """The label of the pg_dump that makes a backup of the instance with this mark: one at a time."""
    return f"ods_backup_{mark.hex}"


@asynccontextmanager
async def _moment(database: Database) -> AsyncIterator[_Moment]:
    async with snapshot(database) as opened:
        at = datetime.now(UTC)
        async with opened.session() as session:
            (facts,) = await fetch_rows(session, _FACTS)
            form = await read_form(session)
        sequences = await read_sequences(opened)
        yield _Moment(opened, facts["snapshot"], at, facts["version"], facts["bytes"], sequences, form)


def _counted(moment: _Moment, kind: BackupKind) -> Sequence[Table]:
    """The tables whose rows a copy must have: also those of extensions, if nothing else will be left.

    pg_dump leaves the rows of these out but for those that the extension keeps for users. If there are others
    than the extension makes itself, the verification tells the difference.
    """
    tables = moment.snapshot.tables
    return [*tables, *moment.snapshot.extension_tables] if kind is BackupKind.FINAL else tables


def _require_in_dump(extension_tables: Sequence[Table], figures: Figures) -> None:
    """Refuse a backup after which rows would be lost that are not in it, and that nothing can verify.

    Raises:
        BackupFaultError: pg_dump leaves a table out that has rows; they may be the extension's own, or not.
    """
    for table in extension_tables:
        if not table.kept_for_users and (count := figures.tables[table.name]):
            raise BackupFaultError(
                f"The table {table.name} belongs to an extension, so that its {count} rows are in no dump;"
                " and an encrypted backup cannot be restored to see whether the extension makes them itself."
                " Nothing was dropped. If they are of use, copy them to a table of your own, then retry. If"
                " not, remove them, or purge the instance without a final backup."
            )


async def _stored(
    store: BackupStore, path: str, dump: Dump, moment: _Moment, counted: Sequence[Table]
) -> Figures:
    """Store the dump, and count meanwhile the rows of these tables."""
    counting = asyncio.create_task(count_rows(moment.snapshot, counted))
    try:
        await store.write_stream(path, dump.chunks(), moment.size_bytes)
        rows = await counting
        # pg_dump has read them between the two: each may have been set back, or have given further values.
        return Figures(rows, lower_values(moment.sequences, await read_sequences(moment.snapshot)))
    finally:
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)


@asynccontextmanager
async def _cleaned_up(store: BackupStore, key: BackupKey) -> AsyncIterator[None]:
    """If the body fails, remove what it has stored, unless that takes long."""
    try:
        yield
    except BaseException:
        with suppress(BackupFaultError, TimeoutError):
            async with asyncio.timeout(_CLEANUP_SECONDS):
                await delete_backup(store, key)
        raise


def _manifest(
    request: BackupRequest, moment: _Moment, dump: Dump, figures: Figures, recipients: Sequence[str]
) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        backup_id=request.key.backup_id,
        tenant=request.key.tenant,
        ods_instance_id=request.key.ods_instance_id,
        mark=request.mark,
        name=request.name,
        kind=request.kind,
        template=request.template,
        postgres_version=moment.version,
        dump_version=dump.version,
        size_bytes=dump.size_bytes,
        database_size_bytes=moment.size_bytes,
        sha256=dump.sha256,
        created_at=moment.at,
        finished_at=datetime.now(UTC),
        encrypted=bool(recipients),
        recipients=sorted(set(recipients)),
        details=request.details,
        figures=figures,
    )
