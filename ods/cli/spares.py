"""`ods spares`: clones of templates that are kept ready for creates."""

from typing import Annotated

import typer

from ods.cli.api_access import connect
from ods.cli.options import DEFAULT_DATA_DIR, ApiUrl, AsJson, DataDir
from ods.cli.output import say, show_json, show_list

_COLUMNS = {"template": "TEMPLATE", "ready": "READY", "wanted": "WANTED", "stale": "STALE", "bytes": "BYTES"}


def spares(
    *,
    refill: Annotated[
        bool, typer.Option("--refill", help="Make missing ones, and remove stale ones.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until none is missing.")] = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show the spare databases of each template."""
    with connect(api_url, data_dir) as api:
        if refill:
            api.refill()
        found = api.wait_for_spares() if wait else api.spares()
    if as_json:
        show_json(found)
        return
    show_list(found["templates"], _COLUMNS)
    if found["unfinished"]:
        say(f"Unfinished: {found['unfinished']}.")
