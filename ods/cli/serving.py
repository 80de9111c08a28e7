"""A stack for a command: the one that runs, or one that is started for as long as the command needs it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

from ods.cli.options import DEFAULT_API_PORT, DEFAULT_TEMPORAL_PORT, DEFAULT_TEMPORAL_UI_PORT
from ods.cli.output import progress, say
from ods.embedded.data_folder import DataFolder, StackFile
from ods.embedded.errors import CommandError
from ods.embedded.ports import Ports, without_taken
from ods.embedded.stack_server import OWN_POSTGRES, POSTGRES_VARIABLE, PostgresChoice

_POLL_SECONDS = 0.1
_STOP_SECONDS = 90
_LISTENERS = {
    "api": "the API",
    "temporal": "Temporal",
    "temporal_ui": "Temporal's Web UI",
    "postgres": "PostgreSQL",
}


@contextmanager
def serving(
    folder: DataFolder, ports: Ports, postgres: PostgresChoice = OWN_POSTGRES, *, keep: bool
) -> Iterator[StackFile]:
    """The stack of `folder`; if none runs there, one is started, and stopped after the body unless `keep`.

    Where default ports are taken, it gets others.

    Raises:
        CommandError: it does not start, or one runs and a PostgreSQL was chosen.
    """
    postgres.require_one(ports.postgres)
    if stack := folder.running_stack():
        if postgres != OWN_POSTGRES:
            raise CommandError(
                f"A stack runs in {folder.path} already: leave out --postgres, which ODS_POSTGRES sets"
                " as well, and --postgres-version to use it, or choose another folder with --data-dir."
            )
        say(f"Using the stack that runs in {folder.path}.")
        yield stack
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Terminated."))  # so that `finally` stops the stack
    folder.create()
    log = folder.logs / "up.log"
    process = _start_stack(folder, _free(ports, folder, postgres), postgres, log)
    try:
        yield _wait_until_it_serves(folder, process, log)
    finally:
        if keep and process.poll() is None:
            say(f"The stack keeps running; stop it with `kill {process.pid}`.")
        else:
            _stop_stack(process)


def _free(ports: Ports, folder: DataFolder, postgres: PostgresChoice) -> Ports:
    """The ports to listen on; prints which of them are not the defaults."""
    stored = folder.secrets() if postgres.dsn is None else None
    kept = stored.postgres_port if stored else None
    usual = Ports(DEFAULT_API_PORT, DEFAULT_TEMPORAL_PORT, DEFAULT_TEMPORAL_UI_PORT, kept)
    wanted = replace(ports, postgres=ports.postgres or kept)
    chosen = without_taken(wanted, usual)
    for name, port in vars(chosen).items():
        if port != vars(wanted)[name]:
            say(f"Port {vars(wanted)[name]} is taken: {_LISTENERS[name]} listens on {port}.")
    return chosen


def _start_stack(
    folder: DataFolder, ports: Ports, postgres: PostgresChoice, log: Path
) -> subprocess.Popen[bytes]:
    options = {
        "--data-dir": folder.path,
        "--api-port": ports.api,
        "--temporal-port": ports.temporal,
        "--temporal-ui-port": ports.temporal_ui,
        "--postgres-port": ports.postgres,
        "--postgres-version": postgres.version,
    }
    arguments = [str(part) for pair in options.items() if pair[1] is not None for part in pair]
    with log.open("wb") as output:
        return subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "ods.cli", "up", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | ({POSTGRES_VARIABLE: postgres.dsn} if postgres.dsn is not None else {}),
            start_new_session=True,  # Ctrl-C here is not for the stack
        )


def _wait_until_it_serves(folder: DataFolder, process: subprocess.Popen[bytes], log: Path) -> StackFile:
    started = monotonic()
    with progress() as show:
        while (stack := folder.running_stack()) is None:
            last_line = (log.read_text().splitlines() or ["Starting the stack ..."])[-1]
            if process.poll() is not None:
                raise CommandError(f"{last_line.removeprefix('Error: ')} The logs are in {folder.logs}.")
            show(last_line, f"({monotonic() - started:.1f} s)")
            sleep(_POLL_SECONDS)
    say(f"The stack in {folder.path} serves after {monotonic() - started:.1f} s.")
    return stack


def _stop_stack(process: subprocess.Popen[bytes]) -> None:
    with progress() as show:
        show("Stopping the stack ...", "")
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()  # its children die with it
            process.wait()
