"""`ods template …`: the templates that instances are made of."""

import typer

from cli.api_access import connect
from cli.client import Json
from cli.options import DEFAULT_DATA_DIR, ApiUrl, AsJson, DataDir
from cli.output import say, show_json, show_list

app = typer.Typer(no_args_is_help=True)

_COLUMNS = {
    "name": "NAME",
    "database": "DATABASE",
    "bytes": "BYTES",
    "tables": "TABLES",
    "dataStandard": "DATA STANDARD",
    "extensions": "EXTENSIONS",
    "loadedAt": "LOADED AT",
    "spares": "SPARES",
    "sessions": "SESSIONS",
    "state": "STATE",
}


@app.command("list")
def list_all(
    *, as_json: AsJson = False, api_url: ApiUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR
) -> None:
    """List the templates, and why no instance can be made of one."""
    with connect(api_url, data_dir) as api:
        found = api.templates()
    if as_json:
        show_json(found)
        return
    show_list([_cells(template) for template in found], _COLUMNS)
    for template in found:
        if template["obstacle"]:
            say(f"{template['name']}: {template['obstacle']}")


def _cells(template: Json) -> Json:
    contents = template["contents"] or {"tables": None, "dataStandard": None, "extensions": {}}
    extensions = " ".join(f"{name} {version}" for name, version in contents["extensions"].items())
    state = "ready" if template["ready"] else "not ready"
    return template | contents | {"extensions": extensions, "state": state}
