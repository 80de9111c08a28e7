"""`ods registration …`: the window in which clients may register themselves, without the API."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ods.cli.options import DEFAULT_DATA_DIR, AsJson, DataDir
from ods.cli.output import say, show_json, utc

if TYPE_CHECKING:
    from ods.registry.clients.registration import RegistrationWindow

app = typer.Typer(no_args_is_help=True)

_MAX_MINUTES = 1440


@app.command("open")
def open_window(
    minutes: Annotated[int, typer.Option(min=1, max=_MAX_MINUTES, help="For how long.", show_default=False)],
    *,
    as_json: AsJson = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Let clients register themselves for some minutes."""
    _work(data_dir, lambda window, operator: window.open(minutes, operator), as_json=as_json)


@app.command()
def close(*, as_json: AsJson = False, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Let no client register itself any more."""
    _work(data_dir, lambda window, operator: window.close(operator), as_json=as_json)


@app.command()
def status(*, as_json: AsJson = False, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Show whether clients may register themselves."""
    _work(data_dir, lambda window, _: window.open_until(), as_json=as_json)


def _work(
    data_dir: Path,
    work: "Callable[[RegistrationWindow, str], Awaitable[datetime | None]]",
    *,
    as_json: bool,
) -> None:
    """Do `work`, which returns until when registration is open, and show that."""
    # Imported here: it takes half a second, which other commands need not wait for.
    from ods.cli.registry_access import RegistryAccess, operator  # noqa: PLC0415
    from ods.registry.clients.registration import RegistrationWindow  # noqa: PLC0415

    access = RegistryAccess.find(data_dir)

    async def until() -> datetime | None:
        async with access.connected() as engine:
            return await work(RegistrationWindow(engine), operator())

    end = utc(asyncio.run(until()))
    if as_json:
        show_json({"open": access.always_open or end is not None, "always": access.always_open, "until": end})
    elif access.always_open:
        say("Registration is always open here: ODS_REGISTRATION is true.")
    else:
        say(f"Registration is open until {end}." if end else "Registration is closed.")
