"""The embedded stacks of the benchmark, below one folder."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path

from benchmarks import machine, templates
from benchmarks.templates import TemplateSpec
from ods.cli.serving import serving
from ods.embedded.data_folder import DataFolder, Secrets, StackFile
from ods.embedded.ports import Ports, free_port, free_ports
from ods.embedded.postgres import EmbeddedPostgres

_NUMBERS = count(1)


class Stacks:
    """Starts stacks, one at a time; those that clone the benchmark's templates share the data of one server.

    Args:
        parent: where to make a folder for all of them; by default, where temporary files are.
    """

    def __init__(self, parent: str | None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ods-bench-", dir=parent))
        self._folder.chmod(0o711)  # PostgreSQL's own user must get through when this runs as root
        self._shared = DataFolder(self._folder / "shared")
        self.servers: dict[str, str] = {}
        """Descriptions of the servers that were started until now."""

    @asynccontextmanager
    async def postgres(self, specs: Sequence[TemplateSpec]) -> AsyncIterator[str]:
        """PostgreSQL of the shared stack alone, with these templates; gives a superuser's address."""
        self._shared.create()
        secrets = self._shared.secrets() or Secrets.generate(free_port())
        self._shared.store_secrets(secrets)
        server = EmbeddedPostgres(
            self._shared.path / "postgres", secrets.postgres_port, secrets.superuser_password
        )
        await server.initialise()
        await server.start()
        try:
            self.servers |= await machine.describe_postgres(server.dsn())
            for spec in specs:
                await templates.ensure(server.dsn(), spec)
            yield server.dsn()
        finally:
            await server.stop()

    @contextmanager
    def cloning(self, minimal: TemplateSpec, sample: TemplateSpec, **settings: str) -> Iterator[StackFile]:
        """The shared stack, with these templates behind `Minimal` and `Sample`."""
        asyncio.run(self._build([minimal, sample]))
        chosen = {"ODS_MINIMAL_TEMPLATE": minimal.database, "ODS_SAMPLE_TEMPLATE": sample.database}
        with self._started(self._shared, chosen | settings) as stack:
            yield stack

    @contextmanager
    def fresh(self, **settings: str) -> Iterator[tuple[DataFolder, StackFile]]:
        """A new stack with the default templates, for a section that creates many instances."""
        folder = DataFolder(self._folder / f"fresh-{next(_NUMBERS)}")
        with self._started(folder, settings) as stack:
            yield folder, stack

    @contextmanager
    def _started(self, folder: DataFolder, settings: Mapping[str, str]) -> Iterator[StackFile]:
        with _environment(settings):
            api, temporal, temporal_ui = free_ports(3)
            with serving(folder, Ports(api, temporal, temporal_ui, postgres=None), keep=False) as stack:
                self.servers |= asyncio.run(machine.describe_postgres(stack["postgres"]["master_dsn"]))
                self.servers |= asyncio.run(machine.describe_temporal(stack["temporal"]["address"]))
                yield stack

    def remove(self) -> None:
        """Remove all data."""
        for data in self._folder.glob("*/postgres"):
            shutil.rmtree(data.resolve())  # the folder may be a symbolic link (ods/embedded/postgres.py)
        shutil.rmtree(self._folder)

    async def _build(self, specs: Sequence[TemplateSpec]) -> None:
        async with self.postgres(specs):
            pass


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Replace the caller's settings in the environment, which the stack inherits, while the body runs."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("ODS_")]:
        del os.environ[name]
    os.environ |= settings
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
