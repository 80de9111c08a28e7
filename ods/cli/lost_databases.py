"""Restoring what instances had whose databases are gone, each from its newest backup that was verified."""

from collections.abc import Iterator
from uuid import uuid4

from ods.cli.client import AdminApi, Json
from ods.cli.following import follow
from ods.cli.output import say

_LONGEST_NAME = 30
"""Characters that are left of the instance's name: what is added must fit into the name of a database."""


def give_back_lost(api: AdminApi, *, quietly: bool) -> Iterator[Json]:
    """Give each instance without a database what its backup holds; returns them, as they are then.

    The backup becomes an instance of its own first, whose database is then handed over: nothing is
    overwritten, also if this is interrupted.

    Raises:
        CommandError: a job has failed, or a request was refused.
    """
    for finding in api.drift():
        if (finding["remedy"] or {}).get("action") != "Restore":
            continue
        lost = api.instance(finding["remedy"]["instanceId"])
        backups = api.backups(instanceId=lost["id"], status="Completed")
        verified = (one for one in backups if one["verification"] == "Completed")
        if (backup := next(verified, None)) is None:
            if not quietly:
                say(f"'{lost['name']}' has no backup that was verified: its database was not restored.")
            continue
        yield _restored(api, lost, backup, quietly=quietly)


def _restored(api: AdminApi, lost: Json, backup: Json, *, quietly: bool) -> Json:
    name = f"{lost['name'][:_LONGEST_NAME]} {uuid4().hex[:8]}"
    made = api.create(name, None, {"backupId": backup["id"]})
    follow(api, made, quietly=quietly)
    database = api.instance(made["id"])["databaseName"]
    follow(api, api.detach(made["id"]), quietly=quietly)
    api.adopt(lost["id"], database)
    if not quietly:
        say(f"Restored: '{lost['name']}' has the database '{database}', from {backup['finishedAt']}.")
    return api.instance(lost["id"])
