"""`ods edorgs …`: the education organizations of the ODS databases."""

from typing import Annotated

import typer

from ods.cli.api_access import connect
from ods.cli.options import DEFAULT_DATA_DIR, ApiUrl, AsJson, DataDir, Wait
from ods.cli.output import show_json, show_members

app = typer.Typer(no_args_is_help=True)


@app.callback()
def edorgs() -> None:
    """Education organizations, as the registry has them."""


@app.command()
def refresh(
    instance: Annotated[
        int | None,
        typer.Option(help="Id of an ODS instance; by default all are read.", show_default=False),
    ] = None,
    *,
    wait: Wait = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Read the education organizations of the ODS databases anew."""
    with connect(api_url, data_dir) as api:
        requested = api.refresh(instance)
        shown = api.wait_for(requested["jobId"]) if wait else requested
    (show_json if as_json else show_members)(shown)
