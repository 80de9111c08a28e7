"""Where the ODS/API is led elsewhere than the registry says."""

from collections.abc import Iterator

from ods.recovery.compare.findings import Drift, DriftKind, Remedy, RemedyAction
from ods.recovery.compare.snapshot import Snapshot, must_be_usable, published_later
from ods.registry.storage.models import DbInstance


def instances_without_ods_instance(seen: Snapshot) -> Iterator[Drift]:
    """Live instances to which the ODS/API has no way; not those that are `published_later`."""
    later = {one.mark for one in published_later(seen)}
    routed = {ods_instance.ods_instance_id for ods_instance in seen.ods_instances}
    for row in seen.instances:
        number = row.ods_instance_id
        if must_be_usable(row) and number not in routed and str(row.mark) not in later:
            words = f"The instance is {row.status}, but there is no ODS instance {number}."
            yield Drift(DriftKind.ROUTE_BROKEN, f"{row.id} {row.name}", words)


def ods_instances_without_database(seen: Snapshot) -> Iterator[Drift]:
    """ODS instances that lead to a database that does not exist."""
    for ods_instance in seen.ods_instances:
        database = seen.strings.local_database(ods_instance.connection_string)
        if database is not None and database not in seen.databases:
            yield Drift(
                DriftKind.ROUTE_BROKEN,
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
        kind, subject = DriftKind.ROUTED_ELSEWHERE, f"{number} {ods_instance.name}"
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
            DriftKind.ROUTED_ELSEWHERE,
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
            DriftKind.ROUTED_ELSEWHERE,
            f"{number} {ods_instance.name}",
            f"The ODS instance {number} '{ods_instance.name}' leads to '{database}', the database of the"
            f" instance {instance.id} '{instance.name}': its clients read and write its data. It may"
            " have been added for another instance that had the name. Unless that is meant, give it"
            f" another connection string, or delete it (PUT or DELETE /v2/odsInstances/{number}).",
        )
