"""`ods audit`: the audit trail: which client sent which request, and how it was answered."""

from typing import Annotated

import typer

from ods.cli.api_access import connect
from ods.cli.options import DEFAULT_DATA_DIR, ApiUrl, AsJson, DataDir
from ods.cli.output import show_json, show_list

_COLUMNS = {
    "at": "WHEN",
    "client": "CLIENT",
    "address": "ADDRESS",
    "method": "METHOD",
    "path": "PATH",
    "jobId": "JOB",
    "status": "STATUS",
    "title": "REASON",
    "sentBytes": "SENT BYTES",
    "omitted": "OTHERS LIKE IT",
}
_MAX_ENTRIES = 10_000


def audit(
    limit: Annotated[int, typer.Option(min=1, max=_MAX_ENTRIES, help="How many of the newest entries.")] = 25,
    *,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show the newest entries of the audit trail, the newest first."""
    with connect(api_url, data_dir) as api:
        rows = api.audit(limit)
    if as_json:
        show_json(rows)
    else:
        show_list(rows, _COLUMNS)
