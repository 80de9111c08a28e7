"""What the service's role needs on a registry and on the server of the ODS databases: the one table of it.

From it come the statements of `ods grants`, its `--check`, the doctor's line about rights, and the reason
that a request or job gets when PostgreSQL has refused it for a missing right.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS

_ALL = ("SELECT", "INSERT", "UPDATE", "DELETE")

_KEYWORDS = RESERVED_WORDS | {"collation", "concurrently", "lateral", "system_user", "tablesample"}
"""What PostgreSQL takes for no name of a role or database unless it is in quotes."""


@dataclass(frozen=True)
class Need:
    """Privileges that the role needs on one object.

    Attributes:
        held: for each privilege, SQL that says whether the session's role holds it; null: there is no such
            object.
        grant: the statement that gives privileges, with commas between, to a role; both as SQL writes them.
        only_if: SQL that says of a role, a literal, whether the statement is to be run; None: it always is.
    """

    held: Mapping[str, str]
    grant: Callable[[str, str], str]
    only_if: Callable[[str], str] | None = None


def registry_needs(database: str) -> list[Need]:
    """What the role needs in the registry, whose database has this name."""
    return [
        _on_database(database),
        _on_schema("adminapi"),
        _on_schema("dbo"),
        _on_table("dbo", "odsinstances", *_ALL),
        # A new instance has one number, of this sequence and that of the instances, which are kept in step.
        _on_sequence("dbo", "odsinstances", "odsinstanceid", "UPDATE"),
        _on_table("dbo", "odsinstancecontexts", *_ALL),
        _on_sequence("dbo", "odsinstancecontexts", "odsinstancecontextid"),
        _on_table("dbo", "odsinstancederivatives", *_ALL),
        _on_sequence("dbo", "odsinstancederivatives", "odsinstancederivativeid"),
        _on_table("dbo", "apiclientodsinstances", "SELECT", "DELETE"),
        # The view of the table that an Admin API has as well, under either of two names.
        _on_table("adminapi", "managed_instances", "SELECT", "INSERT", "UPDATE"),
        _on_sequence_if_there("adminapi.dbinstances_id_seq"),
        _on_sequence_if_there("adminapi.odsinstancemanages_id_seq"),
        _on_table("adminapi", "databases", *_ALL),
        _on_sequence("adminapi", "databases", "id"),
        _on_table("adminapi", "databaserevisions", *_ALL),
        _on_table("adminapi", "jobstatuses", "SELECT", "INSERT", "UPDATE"),
        _on_sequence("adminapi", "jobstatuses", "id"),
        _on_table("adminapi", "backups", *_ALL),
        _on_table("adminapi", "applications", *_ALL),
        _on_sequence("adminapi", "applications", "id"),
        _on_table("adminapi", "audit", "SELECT", "INSERT"),
        # UPDATE of these two is what a DELETE needs that leaves out rows which another session has locked.
        _on_table("adminapi", "idempotencykeys", *_ALL),
        _on_table("adminapi", "consolesessions", *_ALL),
        _on_table("adminapi", "signinlinks", "SELECT", "INSERT", "DELETE"),
        _on_table("adminapi", "signinattempts", "SELECT", "INSERT", "DELETE"),
        _on_table("adminapi", "attemptcounts", *_ALL),
        _on_table("adminapi", "leftdatabasenames", *_ALL),
        _on_table("adminapi", "servedschedules", "SELECT", "INSERT", "UPDATE"),
        _on_table("adminapi", "databasesizes", *_ALL),
        _on_table("adminapi", "totalsizes", *_ALL),
        _on_table("adminapi", "installation", "SELECT", "UPDATE"),
        _on_table("adminapi", "registration", "SELECT", "UPDATE"),
        _on_table("adminapi", "educationorganizations", *_ALL),
        _on_table("adminapi", "snapshots", *_ALL),
        _on_sequence("adminapi", "snapshots", "id"),
        _on_table("adminapi", "ods_migrations", "SELECT"),
        _on_function("adminapi", "utf16_order", "text"),
        _on_function("adminapi", "trigrams", "text"),
        _on_function("adminapi", "follow_rename"),
        _on_function("adminapi", "prune_audit", "interval, integer"),
        _on_function("pg_catalog", "pg_control_system"),
        _on_function("pg_catalog", "pg_control_checkpoint"),
        _on_function("pg_catalog", "pg_control_recovery"),
        # Tables of the ODS/API, where it has made them, for `GET /v2/odsInstances/{id}/applications`.
        _if_there("dbo", "applications"),
        _if_there("dbo", "apiclients"),
        _if_there("dbo", "applicationeducationorganizations"),
        _if_there("dbo", "profileapplications"),
    ]


def server_needs(database: str, templates: Iterable[str], groups: Iterable[str] = ()) -> list[Need]:
    """What the role needs on the server of the ODS databases.

    Args:
        database: the maintenance database.
        templates: the databases that are cloned.
        groups: further roles that it must be a member of.
    """
    return [
        Need(
            {"CREATEDB": "(SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user)"},
            lambda privilege, role: f"ALTER ROLE {role} {privilege}",
        ),
        # Renaming and dropping a database end the sessions of other roles on it.
        _member_of("pg_signal_backend"),
        statistics_need(),
        *(_member_of(group) for group in groups),
        _on_database(database),
        _on_function("pg_catalog", "pg_control_system"),
        *(need for template in templates for need in _on_template(template)),
    ]


def statistics_need() -> Need:
    """Seeing what sessions of other roles do, and the size of each database."""
    return _member_of("pg_read_all_stats")


def quoted(identifier: str) -> str:
    """A name as SQL writes it."""
    is_plain = identifier.isascii() and identifier.islower() and identifier.isidentifier()
    if is_plain and identifier not in _KEYWORDS:
        return identifier
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def _granting(on: str) -> Callable[[str, str], str]:
    return lambda privileges, role: f"GRANT {privileges} ON {on} TO {role}"


def _on_schema(schema: str) -> Need:
    held = f"(SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = {literal(schema)})"  # noqa: S608 - quoted
    return Need({"USAGE": held}, _granting(f"SCHEMA {schema}"))


def _on_table(schema: str, table: str, *privileges: str) -> Need:
    """On a table, or on the view that stands in its place."""
    held = {
        privilege: "(SELECT has_table_privilege(pg_class.oid, "
        f"{literal(privilege)}) {_from_class(schema, table)})"
        for privilege in privileges
    }
    return Need(held, _granting(f"{schema}.{table}"))


def _on_sequence(schema: str, table: str, column: str, privilege: str = "USAGE") -> Need:
    """On the sequence of a table's key, found by the table: Ed-Fi's scripts rename tables, not sequences.

    USAGE lets a role take values; UPDATE includes that, and lets it set the sequence.
    """
    accepted = {privilege, "UPDATE"}
    held = (
        f"(SELECT bool_and(has_sequence_privilege(objid, '{', '.join(accepted)}')) FROM pg_depend"  # noqa: S608 - quoted
        " JOIN pg_class sequence ON sequence.oid = objid AND relkind = 'S'"
        f" WHERE refobjid = (SELECT pg_class.oid {_from_class(schema, table)}))"
    )
    sequence = f"pg_get_serial_sequence('{schema}.{table}', '{column}')"
    return Need(
        {privilege: held},
        lambda privileges, role: (
            f"DO $$ BEGIN EXECUTE 'GRANT {privileges} ON SEQUENCE ' || {sequence}"
            f" || {literal(f' TO {role}')}; END $$"
        ),
    )


def _on_sequence_if_there(sequence: str) -> Need:
    """Setting a sequence of this name, which tells the name that its table was created with."""
    return Need(
        {"UPDATE": f"has_sequence_privilege(to_regclass('{sequence}'), 'UPDATE')"},
        _granting(f"SEQUENCE {sequence}"),
        lambda _: f"to_regclass('{sequence}') IS NOT NULL",
    )


def _if_there(schema: str, table: str) -> Need:
    """Reading a table of another product, which need not be there."""
    is_there = f"to_regclass('{schema}.{table}') IS NOT NULL"
    return replace(_on_table(schema, table, "SELECT"), only_if=lambda _: is_there)


def _on_function(schema: str, name: str, arguments: str = "") -> Need:
    """Every role has this right, unless an administrator has taken it away."""
    function = f"{schema}.{name}({arguments})"
    held = (
        "(SELECT has_function_privilege(pg_proc.oid, 'EXECUTE') FROM pg_proc"  # noqa: S608 - quoted
        " JOIN pg_namespace ON pg_namespace.oid = pronamespace"
        f" WHERE nspname = {literal(schema)} AND proname = {literal(name)})"
    )
    return Need(
        {"EXECUTE": held},
        _granting(f"FUNCTION {function}"),
        lambda role: f"NOT has_function_privilege({role}, '{function}', 'EXECUTE')",
    )


def _on_database(database: str, only_if: Callable[[str], str] | None = None) -> Need:
    held = f"(SELECT has_database_privilege(oid, 'CONNECT') {_from_database(database)})"
    return Need({"CONNECT": held}, _granting(f"DATABASE {quoted(database)}"), only_if)


def _on_template(template: str) -> Iterator[Need]:
    """Its size is asked, and roles other than its owner clone it; both once it has been loaded."""
    is_there = f"EXISTS (SELECT {_from_database(template)})"
    yield _on_database(template, lambda _: is_there)
    yield Need(
        {"IS_TEMPLATE": f"(SELECT datistemplate OR pg_has_role(datdba, 'USAGE') {_from_database(template)})"},
        lambda privilege, _: f"ALTER DATABASE {quoted(template)} {privilege} true",
        lambda _: is_there,
    )


def _member_of(role: str) -> Need:
    held = f"(SELECT pg_has_role(oid, 'USAGE') FROM pg_roles WHERE rolname = {literal(role)})"  # noqa: S608 - quoted
    return Need({quoted(role): held}, lambda privilege, to: f"GRANT {privilege} TO {to}")


def _from_class(schema: str, table: str, join: str = "") -> str:
    return (
        f"FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace {join}"
        f" WHERE nspname = {literal(schema)} AND relname = {literal(table)}"
    )


def _from_database(database: str) -> str:
    return f"FROM pg_database WHERE datname = {literal(database)}"
