"""`ods keys …`: the keys of the service."""

import asyncio
from typing import TYPE_CHECKING

import typer

from ods.cli.options import AsJson, Tenant
from ods.cli.output import say, show_json
from ods.embedded.errors import CommandError

if TYPE_CHECKING:  # importing it takes time, which other commands need not wait for
    from ods.registry.connection_strings.key_rotation import Rotation

app = typer.Typer(no_args_is_help=True)


@app.callback()
def keys() -> None:
    """Keys, from the same environment variables as for the API and the worker."""


@app.command()
def rotate(*, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Encrypt stored connection strings with ODS_ENCRYPTION_KEY; exit 1 if some stay that no key can read.

    Those of ODS_ENCRYPTION_KEY_PREVIOUS are read as well. It may be stopped at any time, and run again.
    """
    from ods.cli.registry_maintenance import rotate_keys  # noqa: PLC0415 - takes half a second

    outcome = asyncio.run(rotate_keys(tenant))
    if as_json:
        show_json({name: vars(done) for name, done in outcome.rotations.items()})
    else:
        for name, done in outcome.rotations.items():
            _show(f"Tenant {name}: " if outcome.multi_tenant else "", done)
    if outcome.faults:
        raise CommandError("\n".join(outcome.faults))
    if any(done.unreadable for done in outcome.rotations.values()):
        raise typer.Exit(1)


def _show(where: str, done: "Rotation") -> None:
    say(f"{where}{done.renewed} re-encrypted, {done.current} had the key already.")
    if done.unreadable:
        found = ", ".join(done.unreadable)
        say(f"{where}{len(done.unreadable)} cannot be read with any key, and stay as they are: {found}.")
