"""The status of an instance in two columns: `state` for this service, `status` for every product.

`state` holds the words of this service. `status` is the column that an Admin API reads and writes; it holds
the words of `/v2/dbInstances` or those of `/v2/odsInstances/manage`, whichever the installation uses. A
trigger keeps both in step, and stays with the table when that is renamed.
"""

import json
from dataclasses import asdict
from enum import StrEnum

from sqlalchemy import Connection, text

from ods.model.arguments import DROP_AT_ONCE, KEEP, DeleteArguments, MakeArguments
from ods.model.operations import AT_REST, NOT_LIVE, operations_that, quoted
from ods.model.origins import FROM_TEMPLATE
from ods.registry.storage.models import RENAMED_TABLE


class Words(StrEnum):
    """The words that `status` is written in, by the surface of the API that they come from."""

    DB_INSTANCES = "dbInstances"
    MANAGE = "manage"


TRIGGER = "keep_status_in_step"
"""The trigger on the table, and the function that it runs."""

_KEEPERS = quoted(operations_that(lambda rules: rules.keeps_instance))
_PUBLISHED = quoted(operations_that(lambda rules: rules.publishes))
# As `api/schemas/managed_status.py` has it; a test compares them.
_MANAGED_STATUS = f"""
CREATE OR REPLACE FUNCTION adminapi.managed_status(state text, operation text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN operation IN ({_KEEPERS}) THEN 'Created'
        WHEN state = 'Pending' THEN 'PendingCreate'
        WHEN state = 'InProgress' AND operation IN ({_PUBLISHED}) THEN 'CreateInProgress'
        WHEN state = 'InProgress' THEN 'DeleteInProgress'
        WHEN state = 'Completed' THEN 'Created'
        WHEN state = 'Error' THEN 'CreateError'
        WHEN state = 'Pending_Delete' THEN 'PendingDelete'
        WHEN state = 'Delete_Failed' THEN 'DeleteError'
        ELSE state
    END
"""
# Words of neither product stay as they are: the column's CHECK refuses them.
_STATE = """
CREATE OR REPLACE FUNCTION adminapi.state_of_status(status text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE status
        WHEN 'PendingCreate' THEN 'Pending'
        WHEN 'CreateInProgress' THEN 'InProgress'
        WHEN 'Created' THEN 'Completed'
        WHEN 'CreateFailed' THEN 'Error'
        WHEN 'CreateError' THEN 'Error'
        WHEN 'PendingDelete' THEN 'Pending_Delete'
        WHEN 'DeleteInProgress' THEN 'InProgress'
        WHEN 'DeleteFailed' THEN 'Delete_Failed'
        WHEN 'DeleteError' THEN 'Delete_Failed'
        ELSE status
    END
"""
_DELETES = quoted(operations_that(lambda rules: rules.ends_use))
_KEPT, _BACKED_UP = '{"keep": true}', '{"backup_first": true}'
_DROPPED, _KEPT_FOR_GOOD, _NOT_DECIDED, _FROM_TEMPLATE = (
    json.dumps(asdict(arguments))
    for arguments in (
        DROP_AT_ONCE,
        KEEP,
        DeleteArguments(keep=False, backup_first=True),
        MakeArguments(FROM_TEMPLATE),
    )
)
_AT_REST = ", ".join(f"'{status}'" for status in sorted(AT_REST))
# This service writes `state`, other products `status`; whichever has changed counts. A `status` that says
# what `state` says already changes nothing: while an instance is renamed, `manage` calls it Created.
# Of the words of `/v2/dbInstances`, only those of deletes tell which operation they are about. Another
# product makes no copies and restores no backups: what it says about its own create or delete is followed as
# long as this service has not begun that job. In all other cases a row follows only words of a delete, and
# not those either while a delete waits or runs, or once the instance is deleted, perhaps in the trash.
# A delete that another product asks for is the instance's next job, like one that a client of this service
# asks for. If the last delete failed, that same job goes on, unless it was to drop the database: the other
# product does not ask for a drop, and the client that did may have cancelled it.
# A delete that another product asks for drops, unless a pass says by the settings that it goes to the trash.
# If it follows a failed delete with a backup, it drops nothing before a pass has said that.
# A row whose operation or arguments change, and a row whose state another product changes, have another
# request from then on: a worker that has the job of before does not begin it, be that a drop of what was told
# as kept. Not so if only the purge is called off that was to follow a delete to the trash.
_KEEP_IN_STEP = f"""
CREATE OR REPLACE FUNCTION adminapi.{TRIGGER}() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_ours boolean := NEW.state IS NOT NULL;
    is_theirs boolean := NOT is_ours;
    asks_for_delete boolean;
    may_be_theirs boolean;
    is_ignored boolean;
    drops boolean;
    backs_up boolean;
    is_called_off boolean;
    is_next_job boolean := false;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        is_ours := NEW.state <> OLD.state;
        is_theirs := NOT is_ours AND NEW.status <> OLD.status
            AND NEW.status NOT IN (NEW.state, adminapi.managed_status(NEW.state, NEW.operation));
        IF is_theirs AND OLD.jobnumber > 0
            AND (NEW.operation, NEW.jobnumber, NEW.attempt) = (OLD.operation, OLD.jobnumber, OLD.attempt)
        THEN
            asks_for_delete := NEW.status = 'DeleteInProgress'
                OR adminapi.state_of_status(NEW.status) = 'Pending_Delete';
            may_be_theirs := OLD.attempt = 0 AND (OLD.operation = 'Delete' AND OLD.arguments = '{_DROPPED}'
                OR (OLD.operation = 'Create' AND OLD.arguments = '{_FROM_TEMPLATE}'));
            is_ignored := CASE OLD.state
                WHEN 'Deleted' THEN true
                WHEN 'Delete_Failed' THEN OLD.operation IN ({quoted(NOT_LIVE)}) OR NOT asks_for_delete
                WHEN 'Completed' THEN NEW.status NOT LIKE '%Delete%'
                WHEN 'Error' THEN NEW.status NOT LIKE '%Delete%'
                ELSE NOT may_be_theirs AND (OLD.operation IN ({_DELETES}) OR NEW.status NOT LIKE '%Delete%')
            END;
            IF is_ignored THEN
                NEW.status := OLD.status;
                RETURN NEW;
            END IF;
            drops := OLD.operation = 'Delete' AND NOT OLD.arguments @> '{_KEPT_FOR_GOOD}';
            is_next_job := NEW.status LIKE '%Delete%' AND (OLD.operation NOT IN ({_DELETES})
                OR OLD.state = 'Completed' OR (OLD.state = 'Delete_Failed' AND drops));
        END IF;
    ELSIF NEW.status IS NOT NULL THEN
        is_ours := false;
    END IF;
    IF is_ours THEN
        NEW.status := CASE WHEN '{Words.MANAGE}' = TG_ARGV[0] OR TG_TABLE_NAME = '{RENAMED_TABLE}'
            THEN adminapi.managed_status(NEW.state, NEW.operation) ELSE NEW.state END;
    ELSIF is_theirs THEN
        NEW.state := adminapi.state_of_status(NEW.status);
        IF NEW.status LIKE '%Delete%' AND (is_next_job OR NEW.operation IS NULL
            OR NEW.operation NOT IN ({_DELETES}))
        THEN
            backs_up := TG_OP = 'UPDATE' AND OLD.state = 'Delete_Failed' AND OLD.operation = 'Delete'
                AND OLD.arguments @> '{_BACKED_UP}' AND EXISTS (
                    SELECT FROM adminapi.databases AS own
                    WHERE (own.instanceid, own.databaseid) = (OLD.id, OLD.databaseid)
                        AND own.publishedat IS NOT NULL
                );
            NEW.operation := 'Delete';
            NEW.arguments := CASE WHEN backs_up THEN '{_NOT_DECIDED}' ELSE '{_DROPPED}' END;
        ELSIF NEW.status NOT LIKE '%Delete%' AND (NEW.operation IS NULL OR NEW.state <> NEW.status) THEN
            NEW.operation := 'Create';
            NEW.arguments := '{_FROM_TEMPLATE}';
        END IF;
    END IF;
    IF is_next_job THEN
        NEW.jobnumber := OLD.jobnumber + 1;
        NEW.attempt := 0;
        NEW.outages := 0;
        NEW.errormessage := NULL;
    END IF;
    is_called_off := TG_OP = 'UPDATE' AND OLD.state IN ({_AT_REST}) AND NEW.state = OLD.state
        AND OLD.operation = 'Delete' AND OLD.arguments @> '{_KEPT}' AND NEW.arguments = '{_KEPT_FOR_GOOD}';
    IF TG_OP = 'UPDATE' AND NEW.request = OLD.request AND (
        is_next_job OR NEW.operation <> OLD.operation
        OR (NEW.arguments <> OLD.arguments AND NOT is_called_off)
        OR (is_theirs AND OLD.jobnumber > 0 AND NEW.state <> OLD.state)
    ) THEN
        NEW.request := gen_random_uuid();
        NEW.cancelledattempt := NULL;
    END IF;
    RETURN NEW;
END $$
"""
_TRIGGER = """
CREATE OR REPLACE TRIGGER {trigger} BEFORE INSERT OR UPDATE ON adminapi.{table}
    FOR EACH ROW EXECUTE FUNCTION adminapi.{trigger}('{words}')
"""
_IS_MANAGE = f"""
SELECT EXISTS (SELECT FROM adminapi.{{table}} WHERE status <> adminapi.state_of_status(status))
    OR EXISTS (
        SELECT FROM pg_trigger
        WHERE tgrelid = 'adminapi.{{table}}'::regclass AND tgname = '{TRIGGER}'
            AND encode(tgargs, 'escape') LIKE '{Words.MANAGE}%'
    )
"""  # noqa: S608 - constants
_HAS_OTHER_WORD = (
    "status = adminapi.state_of_status(status) AND status <> adminapi.managed_status(state, operation)"
)
_WRITE_ANEW = f"""
UPDATE adminapi.{{table}} SET status = adminapi.managed_status(state, operation)
WHERE {_HAS_OTHER_WORD}
"""  # noqa: S608 - constants
# For the service, between the rename of the table and the next `ods migrate`. Its role needs no right on the
# table: that has no name which the right could be granted on beforehand. A row that another session has
# locked follows at the next sweep.
_FOLLOW_RENAME = f"""
CREATE OR REPLACE FUNCTION adminapi.follow_rename() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_trigger
        WHERE tgrelid = to_regclass('adminapi.{RENAMED_TABLE}') AND tgname = '{TRIGGER}'
            AND encode(tgargs, 'escape') NOT LIKE '{Words.MANAGE}%'
    ) THEN
        UPDATE adminapi.{RENAMED_TABLE} SET status = adminapi.managed_status(state, operation)
        WHERE id IN (
            SELECT id FROM adminapi.{RENAMED_TABLE} WHERE {_HAS_OTHER_WORD} FOR UPDATE SKIP LOCKED
        );
    END IF;
END $$
"""  # noqa: S608 - constants


def create_functions(connection: Connection) -> None:
    """Create the functions that translate the words, or bring them up to date."""
    for statement in (_MANAGED_STATUS, _STATE, _KEEP_IN_STEP, _FOLLOW_RENAME):
        connection.execute(text(statement))


def keep_in_step(connection: Connection, table: str) -> None:
    """Have `state` and `status` of the table kept in step from now on.

    The installation uses the words of `manage` as soon as the table has its newer name or a row with one of
    them, and does not leave them again. Rows with other words get them then.
    """
    words = Words.MANAGE if _uses_manage(connection, table) else Words.DB_INSTANCES
    connection.execute(text(_TRIGGER.format(table=table, trigger=TRIGGER, words=words)))
    if words is Words.MANAGE:
        connection.execute(text(_WRITE_ANEW.format(table=table)))


def _uses_manage(connection: Connection, table: str) -> bool:
    """Whether `status` is written in the words of `manage`."""
    return table == RENAMED_TABLE or bool(connection.scalar(text(_IS_MANAGE.format(table=table))))
