"""`ods spares`: databases that are ready before anybody asks for one."""

from typing import Annotated

import typer

from cli.instance import connect
from cli.options import DEFAULT_DATA_DIR, ApiUrl, AsJson, DataDir
from cli.output import say, show_json, show_list

_COLUMNS = {"template": "TEMPLATE", "ready": "READY", "wanted": "WANTED", "stale": "STALE", "bytes": "BYTES"}


def spares(
    *,
    refill: Annotated[
        bool, typer.Option("--refill", help="Make those that are missing, and remove those of no use.")
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
        found = api.full_spares() if wait else api.spares()
    if as_json:
        show_json(found)
        return
    show_list(found["templates"], _COLUMNS)
    if found["unfinished"]:
        say(f"Unfinished: {found['unfinished']}.")
