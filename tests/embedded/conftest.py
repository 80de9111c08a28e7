"""One embedded stack for the tests of the command line, run as its users run it."""

import base64
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ods.embedded.data_folder import DataFolder
from ods.embedded.polling import wait_until
from ods.embedded.ports import free_ports
from ods.programs import process
from ods.programs.process import Command
from tests import preloaded
from tests.servers import POSTGRES_VERSION, server_folder

Run = subprocess.CompletedProcess[str]
PAYLOAD_KEY = base64.b64encode(bytes(range(32))).decode()


def ods_environment(**changes: str) -> dict[str, str]:
    """The variables of this process without settings of the product, with `changes`."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ODS_")} | changes


@pytest.fixture(scope="session")
def ods() -> Callable[..., Run]:
    """Runs the command `ods` with arguments, and with further environment variables."""

    def run(*arguments: object, **environment: str) -> Run:
        return preloaded.run("ods.cli", *map(str, arguments), env=ods_environment(**environment))

    return run


@pytest.fixture(scope="session")
def started_ods() -> Callable[..., Run]:
    """The same, but started afresh: for what leaves processes behind."""

    def run(*arguments: object, **environment: str) -> Run:
        return subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "ods.cli", *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            timeout=100,
            env=ods_environment(**environment),
        )

    return run


def port_options(besides: Collection[int] = ()) -> list[str]:
    """Options that let a stack listen where no other does, and on none of `besides`."""
    names = ("--api-port", "--temporal-port", "--temporal-ui-port")
    return [
        word for pair in zip(names, free_ports(len(names), besides), strict=True) for word in map(str, pair)
    ]


@pytest.fixture
def folder() -> Iterator[DataFolder]:
    """The folder of a stack that the test starts."""
    with server_folder() as parent:
        yield DataFolder(parent / "data")


@pytest.fixture(scope="package")  # it takes processors as long as it runs
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DataFolder]:
    """The folder of a stack that serves, whose histories are encrypted."""
    log = tmp_path_factory.mktemp("stack") / "up.log"
    with server_folder() as parent:
        folder = DataFolder(parent / "data")
        options = [*port_options(), "--postgres-version", POSTGRES_VERSION]
        async with running(folder, options, log, ODS_PAYLOAD_KEY=PAYLOAD_KEY):
            yield folder
        assert not folder.stack_file.exists()
        assert log.read_text().endswith("Stopping ...\n")


@asynccontextmanager
async def running(
    folder: DataFolder, options: list[str], log: Path, **environment: str
) -> AsyncIterator[None]:
    """Runs `ods up`, with further environment variables, and expects it to end well."""
    arguments = (sys.executable, "-m", "ods.cli", "up", "--data-dir", str(folder.path), *options)
    up = Command("ods", arguments, os.environ | environment, stop_deadline=60)
    child = await process.start(up, log)

    async def serves() -> bool:
        assert child.returncode is None, f"its log is {log}"
        return folder.running_stack() is not None

    try:
        await wait_until(serves, 60)
        yield
    finally:
        await process.stop(child, up)
    assert child.returncode == 0
