"""Live instances whose database is not as the registry says, and where the ODS/API is led to."""

from collections.abc import Iterator

from ods.databases.errors import HOW_TO_RECOVER
from ods.databases.inspection.listing import Database
from ods.model.operations import AT_REST, InstanceStatus
from ods.registry.instances.deletes import drops_at_retry
from ods.registry.storage.models import DbInstance
from ods.tenants.cancelling import RETRY_DROPS, way_back_of_live
from ods.tenants.drift.findings import (
    RECOVER,
    Drift,
    DriftKind,
    Remedy,
    RemedyAction,
)
from ods.tenants.drift.own_databases import (
    listed,
    unpublished_of,
    what_was_to_become_it,
)
from ods.tenants.drift.snapshot import Snapshot, must_be_usable, newest_version, published_later


def instances_without(seen: Snapshot) -> Iterator[Drift]:
    """Live instances without a usable database or ODS instance; not those that are `published_later`."""
    later = {one.mark for one in published_later(seen)}
    routed = {ods_instance.ods_instance_id for ods_instance in seen.ods_instances}
    for instance in seen.instances:
        if not must_be_usable(instance) or str(instance.mark) in later:
            continue
        subject = f"{instance.id} {instance.name}"
        database = seen.databases.get(instance.database_name)
        if (fault := _fault(database, instance)) is not None:
            words = f"The instance is {instance.status}, but its database '{instance.database_name}' {fault}."
            remedy = None if database is None else _adoption_of(database, instance)
            if others := _of_other_names(seen, instance):
                words += f" But its mark is on {listed(others)}. {HOW_TO_RECOVER}"
                remedy = RECOVER
            elif _is_lost(database, instance):
                left, remedy = _what_is_left(seen, instance, database)
                words += left
            yield Drift(DriftKind.INSTANCE_WITHOUT_DATABASE, subject, words, remedy)
        if instance.ods_instance_id not in routed:
            number = instance.ods_instance_id
            words = f"The instance is {instance.status}, but there is no ODS instance {number}."
            yield Drift(DriftKind.INSTANCE_WITHOUT_ODS_INSTANCE, subject, words)


def _fault(database: Database | None, instance: DbInstance) -> str | None:
    """What is wrong with the database that has the name of the instance's; None if nothing is."""
    if database is None:
        return "does not exist"
    if database.mark != str(instance.mark):
        return "does not carry the instance's mark"
    if database.invalid:
        return "cannot be used: a DROP of it was interrupted"
    if not database.open:
        return "accepts no connections (ALTER DATABASE … ALLOW_CONNECTIONS true)"
    return _other_database(database, instance)


def _is_lost(database: Database | None, instance: DbInstance) -> bool:
    """Whether the instance's database is gone, or can only be dropped."""
    return database is None or (database.invalid and database.mark == str(instance.mark))


def _what_is_left(
    seen: Snapshot, instance: DbInstance, database: Database | None
) -> tuple[str, Remedy | None]:
    """What becomes of an instance whose database is gone or half dropped, and what settles it."""
    if database is None and (unpublished := unpublished_of(seen, instance)) is not None:
        words = (
            f" {what_was_to_become_it(unpublished)} To make it the instance's: ALTER DATABASE"
            f' "{unpublished}" RENAME TO "{instance.database_name}"; then `ods instance adopt {instance.id}`.'
        )
        return words, None
    if (before := newest_version(seen, instance)) is not None:
        first = "" if database is None else f' DROP DATABASE "{database.name}"; then'
        words = (
            " What it had before a reset is in the trash, and goes with the instance where ODS_TRASH_DAYS is"
            f" 0:{first} `{RECOVER.command} --choose {before.trash_name}` brings that back."
        )
        return words, RECOVER if database is None else None
    if database is None:
        return "", None
    return " Restore it; or, if nothing of it is wanted, delete the instance.", None


def _of_other_names(seen: Snapshot, instance: DbInstance) -> list[Database]:
    """Databases outside the trash with the instance's mark; none if one of its own name has it.

    One was renamed by hand, or the server was put back to before a rename: it may be all that has the data.
    """
    named = seen.databases.get(instance.database_name)
    if named is not None and named.mark == str(instance.mark) and not named.invalid:
        return []
    return [
        one
        for one in seen.databases.values()
        if one.owner is not None
        and one.mark == str(instance.mark)
        and one.owner.installation == seen.installation
        and not (one.trash or one.reset or one.invalid)
    ]


def _adoption_of(database: Database, instance: DbInstance) -> Remedy | None:
    """The request that makes the database the instance's; None if its comment is not what is wrong."""
    if not database.open or database.invalid or instance.replacement is not None:
        return None
    is_marked = database.mark == str(instance.mark)
    return RECOVER if is_marked else Remedy(RemedyAction.ADOPT, instance.id)


def _other_database(database: Database, instance: DbInstance) -> str | None:
    """What is wrong if it is another database of the instance, from before a reset or for the next one."""
    if database.owner is None or database.owner.database_id == str(instance.database_id):
        return None
    if instance.replacement is not None:
        return "is the one of a reset that was interrupted: the reconcile pass will record it"
    return f"is another one of the instance (`{RECOVER.command}` makes it the one)"


def deletes_not_done(seen: Snapshot) -> Iterator[Drift]:
    """Instances whose delete no pass goes on with, and of which only an earlier database is left."""
    for instance in seen.instances:
        database = seen.databases.get(instance.database_name)
        has_failed = instance.status == InstanceStatus.DELETE_FAILED and instance.rules.to_trash
        if not ((has_failed or instance.is_delete_called_off) and _is_lost(database, instance)):
            continue
        if (before := newest_version(seen, instance)) is not None:
            half_dropped = None if database is None else database.name
            state = "does not exist" if half_dropped is None else "is half dropped"
            why = "was called off" if instance.is_delete_called_off else "has failed"
            words = (
                f"Its delete {why}, but its database '{instance.database_name}' {state}. What it had before a"
                " reset is kept."
                f" {way_back_of_live(half_dropped, before.trash_name)}"
            )
            if drops_at_retry(instance):
                words += f" {RETRY_DROPS}"
            yield Drift(DriftKind.INSTANCE_WITHOUT_DATABASE, f"{instance.id} {instance.name}", words)


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


def ods_instances_without_database(seen: Snapshot) -> Iterator[Drift]:
    """ODS instances that lead to a database that does not exist."""
    for ods_instance in seen.ods_instances:
        database = seen.strings.local_database(ods_instance.connection_string)
        if database is not None and database not in seen.databases:
            yield Drift(
                DriftKind.ODS_INSTANCE_WITHOUT_DATABASE,
                f"{ods_instance.ods_instance_id} {ods_instance.name}",
                f"The ODS/API routes to the database '{database}', which does not exist.",
            )


def ods_instances_on_other_servers(seen: Snapshot) -> Iterator[Drift]:
    """ODS instances that lead to another server than that of the databases of instances.

    Those of instances; and others whose database has the name of an instance's: they may have led to that
    before it was moved.
    """
    own = {row.ods_instance_id: row for row in seen.instances}
    with_names = {row.database_name: row for row in seen.instances if row.has_names and row.is_published}
    for ods_instance in seen.ods_instances:
        number = ods_instance.ods_instance_id
        if (elsewhere := seen.strings.other_server(ods_instance.connection_string)) is None:
            continue
        words = (
            f"The ODS/API is led to the database '{elsewhere.database}' on"
            f" {', '.join(map(str, elsewhere.endpoints))}, not to the server that"
            " ODS_INSTANCE_CONNECTION_STRING names. What it writes there is in no backup"
        )
        kind, subject = DriftKind.ODS_INSTANCE_ON_OTHER_SERVER, f"{number} {ods_instance.name}"
        if (instance := own.get(number)) is None:
            if (other := with_names.get(elsewhere.database or "")) is not None:
                yield Drift(kind, subject, f"{words} of the instance {_named_alike(other, number)}")
        elif must_be_usable(instance):
            remedy = Remedy(RemedyAction.ADOPT, instance.id, instance.database_name)
            words += (
                " of the instance. Unless that is another address of the same server, stop the ODS/API, and"
                f" see which one has the newest data. `{remedy.command}` leads it to the database that this"
                " service knows."
            )
            yield Drift(kind, subject, words, remedy)


def _named_alike(other: DbInstance, number: int) -> str:
    """What to do with an ODS instance that names a database of another server as an instance's is named."""
    return (
        f"{other.id} '{other.name}', whose database has this name. If it has led to that, as before a move of"
        " the server, stop the ODS/API, see which one has the newest data, and give the ODS instance a"
        f" connection string for that server (PUT /v2/odsInstances/{number}). If it is another database, or"
        " that is another address of the same server, nothing is to be done."
    )


def served_without_mark(seen: Snapshot) -> set[str]:
    """Databases without a mark to which ODS instances or their derivatives lead, such as detached ones."""
    served = [one.connection_string for one in seen.ods_instances]
    served += [derivative.connection_string for derivative in seen.derivatives]
    led_to = {seen.strings.local_database(connection_string) for connection_string in served}
    return {one.name for one in seen.databases.values() if one.mark is None and one.name in led_to}


def derivatives_of_other_instances(seen: Snapshot) -> Iterator[Drift]:
    """Derivatives of an instance that lead to another one's database."""
    names = {row.ods_instance_id: row.name for row in seen.instances}
    with_names = {row.database_name: row for row in seen.instances if row.has_names}
    for derivative in seen.derivatives:
        database = seen.strings.local_database(derivative.connection_string)
        other = with_names.get(database or "")
        own_name = names.get(derivative.ods_instance_id)
        # ODS instances that are no instances may lead where the operator wants.
        if other is None or own_name is None or other.ods_instance_id == derivative.ods_instance_id:
            continue
        yield Drift(
            DriftKind.DERIVATIVE_OF_OTHER_INSTANCE,
            f"{derivative.ods_instance_id} {own_name} {derivative.derivative_type}",
            f"The derivative {derivative.id} of this instance leads to '{database}', the database of the"
            f" instance {other.id} '{other.name}': clients of the one read the data of the other. Give it"
            f" another connection string, or remove it (PUT or DELETE"
            f" /v2/odsInstanceDerivatives/{derivative.id}).",
        )


def ods_instances_of_other_instances(seen: Snapshot) -> Iterator[Drift]:
    """ODS instances that lead to the database of an instance, and are not that instance's."""
    with_names = {row.database_name: row for row in seen.instances if row.has_names and row.is_published}
    for ods_instance in seen.ods_instances:
        database = seen.strings.local_database(ods_instance.connection_string)
        instance = with_names.get(database or "")
        if instance is None or instance.ods_instance_id == ods_instance.ods_instance_id:
            continue
        number = ods_instance.ods_instance_id
        yield Drift(
            DriftKind.ODS_INSTANCE_OF_OTHER_INSTANCE,
            f"{number} {ods_instance.name}",
            f"The ODS instance {number} '{ods_instance.name}' leads to '{database}', the database of the"
            f" instance {instance.id} '{instance.name}': its clients read and write its data. It may"
            " have been added for another instance that had the name. Unless that is meant, give it"
            f" another connection string, or delete it (PUT or DELETE /v2/odsInstances/{number}).",
        )
