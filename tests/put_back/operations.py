"""What the API offers for an instance, as data: how it is prepared, requested, and undone or followed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_INSTANCES = "/v2/dbInstances"


@dataclass(frozen=True)
class Step:
    """A request of a client. Its path and body name what is known by then in braces: `{A}` is an instance.

    Attributes:
        method: of the request; `SQL`: the path is a statement for the server of the ODS databases, by hand.
        path: of the request.
        body: of the request.
        of: the instance that it is about: `A`; the copy, `B`; or `N`, which takes the name of the first.
        holds: the instances whose rows a database that it makes may hold as well.
        drops: whether it asks for the instance's database to be dropped.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    of: str = "A"
    holds: tuple[str, ...] = ()
    drops: bool = False


def _create(name: str, of: str = "A", holds: tuple[str, ...] = (), **origin: str) -> Step:
    return Step("POST", _INSTANCES, {"name": name, **origin}, of, holds)


STEPS: Mapping[str, Step] = {
    "create": _create("Alpha", databaseTemplate="Minimal"),
    "rename": Step("PUT", _INSTANCES + "/{A}", {"name": "Beta"}),
    "rename back": Step("PUT", _INSTANCES + "/{A}", {"name": "Alpha"}),
    "delete": Step("DELETE", _INSTANCES + "/{A}"),
    "undelete": Step("POST", _INSTANCES + "/{A}/undelete", {}),
    "undelete renamed": Step("POST", _INSTANCES + "/{A}/undelete", {"name": "Beta"}),
    "purge": Step("DELETE", "/v2/trash/{A}", drops=True),
    "purge backed up": Step("DELETE", "/v2/trash/{A}?finalBackup=true", drops=True),
    "drop": Step("DELETE", _INSTANCES + "/{A}?purge=true", drops=True),
    "drop backed up": Step("DELETE", _INSTANCES + "/{A}?purge=true&finalBackup=true", drops=True),
    "detach": Step("DELETE", _INSTANCES + "/{A}?detach=true"),
    "reset": Step("POST", _INSTANCES + "/{A}/reset", {}),
    "undo reset": Step("POST", _INSTANCES + "/{A}/reset/undo", {}),
    "reset to backup": Step("POST", _INSTANCES + "/{A}/reset", {"backupId": "{backup}"}),
    "copy closed": _create("Copy", "B", ("A",), copyOf="{A}", mode="closed"),
    "copy online": _create("Copy", "B", ("A",), copyOf="{A}", mode="online"),
    "restore": _create("Copy", "B", ("A",), backupId="{backup}"),
    "delete copy": Step("DELETE", _INSTANCES + "/{B}", of="B"),
    "backup": Step("POST", _INSTANCES + "/{A}/backups"),
    "snapshot": Step("POST", "/v2/odsInstances/{A_ods}/snapshots"),
    "refresh snapshot": Step("POST", "/v2/odsInstances/{A_ods}/snapshots"),
    "delete snapshot": Step("DELETE", "/v2/odsInstances/{A_ods}/snapshots/{snapshot}"),
    "take name": _create("Alpha", "N", databaseTemplate="Minimal"),
    "unmark": Step("SQL", 'COMMENT ON DATABASE "{A_database}" IS NULL'),
    "adopt": Step("POST", _INSTANCES + "/{A}/adopt", {}),
}


@dataclass(frozen=True)
class Operation:
    """An operation of the matrix.

    Attributes:
        step: what is requested, one of `STEPS`.
        prepared: the steps that were done before, each with rows written after it.
        following: the opposite or next step, if there is one.
        frees_name: whether another instance can have the name afterwards.
        has_job: whether it has steps at which a worker can die; otherwise the answer says that it is done. A
            snapshot that is deleted is dropped by a pass ten minutes later, which is not waited for.
    """

    step: str
    prepared: tuple[str, ...] = ("create",)
    following: str | None = None
    frees_name: bool = False
    has_job: bool = True


OPERATIONS: Mapping[str, Operation] = {
    operation.step: operation
    for operation in (
        Operation("create", (), following="delete"),
        Operation("rename", following="rename back"),
        Operation("delete", following="undelete", frees_name=True),
        Operation("undelete", ("create", "delete"), following="delete"),
        Operation("undelete renamed", ("create", "delete"), following="rename back"),
        Operation("purge", ("create", "delete"), frees_name=True),
        Operation("purge backed up", ("create", "delete"), following="restore", frees_name=True),
        Operation("drop", frees_name=True),
        Operation("drop backed up", frees_name=True),
        Operation("reset", following="undo reset"),
        Operation("undo reset", ("create", "reset"), following="undo reset"),
        Operation("reset to backup", ("create", "backup"), following="undo reset"),
        Operation("copy closed", following="delete copy"),
        Operation("copy online", following="delete copy"),
        Operation("restore", ("create", "backup"), following="delete copy"),
        Operation("detach"),
        Operation("adopt", ("create", "unmark"), following="rename", has_job=False),
        Operation("backup", following="reset to backup"),
        Operation("snapshot", following="delete"),
        Operation("refresh snapshot", ("create", "snapshot"), following="delete snapshot"),
        Operation("delete snapshot", ("create", "snapshot"), following="snapshot", has_job=False),
    )
}
