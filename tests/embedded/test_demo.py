import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from ods.cli.serving import serving
from ods.embedded.data_folder import DataFolder, Secrets
from ods.embedded.errors import CommandError
from ods.embedded.polling import wait_until
from ods.embedded.ports import Ports, free_ports
from tests.embedded.conftest import port_options
from tests.servers import POSTGRES_VERSION

Ods = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.long
async def test_demo_stops_what_it_started_unless_told_to_keep_it_when_nothing_ran(
    started_ods: Ods, folder: DataFolder
) -> None:
    options = ["--data-dir", folder.path, *port_options(), "--postgres-version", POSTGRES_VERSION]
    kept = started_ods("demo", "--keep", *options)
    require_life(kept)
    assert f"stop it with `kill {folder.holder()}`" in kept.stdout
    assert folder.running_stack() is not None
    os.kill(int(folder.holder()), signal.SIGTERM)
    await wait_until(lambda: ended(folder), 60)

    stopped = started_ods("demo", *options)
    require_life(stopped)
    assert stopped.stdout.rstrip().endswith("/console: there you do the same.")
    assert await ended(folder)


def test_demo_leaves_the_stack_alone_when_it_ran_before(ods: Ods, stack: DataFolder) -> None:
    before = stack.stack_file.read_text()
    demo = ods("demo", "--data-dir", stack.path)
    require_life(demo)
    assert demo.stdout.startswith(f"Using the stack that runs in {stack.path}.")
    assert stack.stack_file.read_text() == before


def require_life(demo: subprocess.CompletedProcess[str]) -> None:
    assert demo.returncode == 0, demo.stdout + demo.stderr
    output = demo.stdout
    for told in (
        "Created Demo ",
        "Completed",
        "CreateInstanceJob-",
        "Its database EdFi_Ods_Demo_",
        " is Deleted after ",
    ):
        assert told in output
    assert "/namespaces/default/workflows/" in output
    assert "\x1b" not in output
    assert "\r" not in output


async def ended(folder: DataFolder) -> bool:
    return folder.running_stack() is None and not folder.stack_file.exists() and not folder.is_held()


def test_demo_says_why_when_the_stack_cannot_start(ods: Ods, folder: DataFolder) -> None:
    failed = ods("demo", "--data-dir", folder.path, *port_options(), ODS_TRIGGER="never")
    assert failed.returncode == 1
    assert "ODS_TRIGGER" in failed.stderr
    assert str(folder.logs) in failed.stderr


def test_demo_takes_other_ports_and_says_which_when_the_usual_ones_are_taken(
    folder: DataFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as others:
        api, postgres = (others.enter_context(listening()) for _ in range(2))
        temporal, temporal_ui = free_ports(2)
        monkeypatch.setattr("ods.cli.serving.DEFAULT_API_PORT", api)
        monkeypatch.setenv("ODS_TRIGGER", "never")  # so that no stack starts
        folder.create()
        folder.store_secrets(Secrets.generate(postgres))
        with (
            pytest.raises(CommandError, match="ODS_TRIGGER"),
            serving(folder, Ports(api, temporal, temporal_ui, None), keep=False),
        ):
            pass
    told = re.findall(r"Port (\d+) is taken: (.+) listens on (\d+)\.", capsys.readouterr().out)
    assert [(port, listener) for port, listener, _ in told] == [
        (str(api), "the API"),
        (str(postgres), "PostgreSQL"),
    ]
    secrets = folder.secrets()
    assert secrets is not None
    assert str(secrets.postgres_port) == told[1][2]


def test_demo_is_refused_naming_the_option_when_a_port_that_was_chosen_is_taken(
    ods: Ods, folder: DataFolder
) -> None:
    with listening() as port:
        refused = ods("demo", "--data-dir", folder.path, "--temporal-port", port)
    assert refused.returncode == 1
    assert f"Port {port} is taken; choose another one with --temporal-port." in refused.stderr


@contextmanager
def listening() -> Iterator[int]:
    """A port that another process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
