"""`ods template …`: the templates that instances are made of."""

import asyncio
import json
from typing import Annotated

import typer

from ods.cli.api_access import connect
from ods.cli.client import Json
from ods.cli.options import DEFAULT_DATA_DIR, ApiUrl, AsJson, DataDir, Yes
from ods.cli.output import progress, say, show_json, show_list

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


@app.command()
def load(  # noqa: PLR0913 - a command line's options
    template: Annotated[str, typer.Argument(metavar="NAME", help="Name of the template.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Archive of pg_dump (custom or directory format) or SQL, also in gzip; or its address.",
        ),
    ],
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Sessions that load an archive at once.")] = 1,
    *,
    yes: Yes = False,
    as_json: AsJson = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Load a template from a file, and publish it in place of the database that the template has now."""
    # Imported here: it takes half a second, which other commands need not wait for.
    from ods.cli.template_load import TemplateAccess  # noqa: PLC0415
    from ods.cli.template_load import load as load_template  # noqa: PLC0415

    access = TemplateAccess.find(data_dir)
    database = access.database(template)
    if not yes:
        others = access.shared_with.get(database)
        sharing = f", which the tenants {', '.join(others)} copy as well" if others else ""
        question = f"Replace the database {database} of the template {template}{sharing}?"
        typer.confirm(f"{question} Instances stay as they are.", abort=True, err=True)
    with progress() as show:
        work = load_template(access, template, source, jobs, show)
        loaded = asyncio.run(work)
    if as_json:
        further = {"settingsLeftOut": loaded.settings_left_out, "kept": loaded.kept}
        show_json(json.loads(loaded.mark.comment) | further)
        return
    say(
        f"The template {template} is loaded (generation {loaded.mark.generation}). New instances are copies"
        " of it; `ods spares --refill` makes spares of it."
    )
    if loaded.kept:
        say(
            f"The database before it, which no load had made, is kept as {loaded.kept}. To drop it:"
            f" psql --command 'ALTER DATABASE {loaded.kept} IS_TEMPLATE false'"
            f" --command 'DROP DATABASE {loaded.kept}'"
        )
    if loaded.settings_left_out:
        say(
            f"The database before it has settings that the role of ODS_MASTER_DSN may not set:"
            f" {', '.join(loaded.settings_left_out)}. Set them on the new one as a superuser (ALTER DATABASE"
            " … SET …), if they are needed."
        )


def _cells(template: Json) -> Json:
    contents = template["contents"] or {"tables": None, "dataStandard": None, "extensions": {}}
    extensions = " ".join(f"{name} {version}" for name, version in contents["extensions"].items())
    state = "ready" if template["ready"] else "not ready"
    return template | contents | {"extensions": extensions, "state": state}
