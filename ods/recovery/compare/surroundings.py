"""Templates, clocks, jobs and what keeps a whole installation from changing anything."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from ods.backups.store_identity import SharedStoreError
from ods.model.operations import AT_REST
from ods.recovery.compare.findings import Drift, DriftKind, Remedy, RemedyAction
from ods.recovery.compare.snapshot import Snapshot
from ods.registry.clock import CLOCKS_MAY_DIFFER


def installation_as_a_whole(seen: Snapshot) -> Iterator[Drift]:
    """What keeps the installation as a whole from changing anything, or from relying on what it knows."""
    if seen.obstacle is not None:
        yield Drift(DriftKind.INSTALLATION_NOT_CONFIRMED, seen.installation, seen.obstacle)
    if seen.shared_store is not None:
        yield Drift(DriftKind.STORE_SHARED, seen.shared_store, SharedStoreError(seen.shared_store).reason)
    for directory in seen.orphan_directories:
        words = "This directory below base/ belongs to no database; a crashed server may have left it."
        yield Drift(DriftKind.ORPHAN_DIRECTORY, directory, words)


def wrong_templates(seen: Snapshot) -> Iterator[Drift]:
    """Templates that do not exist, or accept connections."""
    for name in seen.templates:
        template = seen.databases.get(name)
        if template is None:
            words = "This template does not exist; instances cannot be created from it."
            yield Drift(DriftKind.TEMPLATE_UNUSABLE, name, words)
        elif template.open:
            words = (
                "Sessions on this template hold up every create; ALTER DATABASE … ALLOW_CONNECTIONS false."
                if template.mark is None
                else "Do not close it: it is the database of an instance, by its comment. Name another one in"
                " ODS_TEMPLATES (`ods template load` makes one of a dump of the instance)."
            )
            yield Drift(DriftKind.TEMPLATE_UNUSABLE, name, words)


def wrong_clocks(seen: Snapshot) -> Iterator[Drift]:
    """Clocks that differ by more than five minutes, and a time in which no pass ran."""
    if abs(seen.clock_lead) > CLOCKS_MAY_DIFFER:
        yield _clocks_differ("registry and server", "the server of the ODS databases", seen.clock_lead)
    elif abs(seen.own_lead) > CLOCKS_MAY_DIFFER:
        yield _clocks_differ("registry and process", "the machine that compares them", seen.own_lead)
    if (gap := seen.time_gap) is not None:
        yield Drift(
            DriftKind.TIME_GAP,
            "registry",
            f"From {_minute(gap.last_seen)} to {_minute(gap.seen_again)}, by the registry's clock, no pass"
            " ran: no worker did, the registry was restored, or that clock was set ahead. Nothing is purged"
            f" from the trash, and no backup expires, before {_minute(gap.forgotten_at)}. Set the clock right"
            " before then, or undelete what must not go.",
        )


def _clocks_differ(subject: str, other: str, lead: timedelta) -> Drift:
    by = timedelta(seconds=round(abs(lead).total_seconds()))
    which = "ahead of" if lead > timedelta() else "behind"
    return Drift(
        DriftKind.CLOCKS_DIFFER,
        subject,
        f"The registry's clock is {by} (hours, minutes, seconds) {which} that of {other}. It decides when an"
        " instance in the trash is due: nothing is purged before both agree within five minutes. Let both"
        " take the time from one source (NTP).",
    )


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def rows_not_adopted(seen: Snapshot) -> Iterator[Drift]:
    """Rows that an Admin API has added and a sweep could not adopt."""
    for instance in seen.instances:
        if not instance.is_adopted and instance.error_message is not None:
            subject = f"{instance.id} {instance.name}"
            yield Drift(DriftKind.ROW_NOT_ADOPTED, subject, instance.error_message)


def resets_not_ended(seen: Snapshot) -> Iterator[Drift]:
    """Instances that take no request: a failed reset is neither undone nor recorded as done."""
    for instance in (*seen.instances, *seen.trashed):
        if instance.replacement is not None and instance.status in AT_REST:
            words = (
                "A reset has failed or was cancelled, and what it has done is not undone yet: the instance"
                " takes no request until then. The reconcile pass does it; if it cannot, its log says why,"
                f" and `ods instance adopt {instance.id} --database {instance.database_name}` ends it with"
                " the database that is there."
            )
            aside = [it.name for it in seen.databases.values() if it.trash and it.mark == str(instance.mark)]
            if aside:
                words += f" What it had before is in the trash: {', '.join(sorted(aside))}."
            remedy = Remedy(RemedyAction.ADOPT, instance.id, instance.database_name)
            yield Drift(DriftKind.RESET_NOT_ENDED, f"{instance.id} {instance.name}", words, remedy)
