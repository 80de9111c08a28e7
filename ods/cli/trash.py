"""`ods trash`: deleted instances that can come back, and databases that instances had before resets."""

from ods.cli.api_access import connect
from ods.cli.options import DEFAULT_DATA_DIR, ApiUrl, AsJson, DataDir
from ods.cli.output import show_json, show_list

_COLUMNS = {
    "id": "ID",
    "name": "NAME",
    "isVersion": "BEFORE A RESET",
    "databaseName": "DATABASE",
    "sizeBytes": "BYTES",
    "deletedAt": "DELETED",
    "deletedBy": "BY",
    "purgeAfter": "PURGED AFTER",
}


def trash(*, as_json: AsJson = False, api_url: ApiUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """List what can come back, by `ods instance undelete`; what a reset replaced, by `undo-reset`."""
    with connect(api_url, data_dir) as api:
        rows = list(api.trash())
    if as_json:
        show_json(rows)
    else:
        show_list(rows, _COLUMNS)
