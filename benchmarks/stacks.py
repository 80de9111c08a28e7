"""Embedded stacks of the benchmark's own, below one folder."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path

from benchmarks import machine, templates
from benchmarks.templates import TemplateSpec
from cli.data_folder import DataFolder, Secrets, StackFile
from cli.ports import Ports, free_port, free_ports
from cli.postgres import EmbeddedPostgres
from cli.serving import serving

_NUMBERS = count(1)


class Stacks:
    """Starts stacks, one at a time; those that clone built templates share one server's data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shared = DataFolder(folder / "shared")
        self.servers: Mapping[str, str] = {}
        """The servers' versions, once there has been a stack."""

    @asynccontextmanager
    async def postgres(self, specs: Sequence[TemplateSpec]) -> AsyncIterator[str]:
        """PostgreSQL of the shared stack alone, with these templates; gives a superuser's address."""
        self._shared.create()
        secrets = self._shared.secrets() or Secrets.generate(free_port())
        self._shared.keep_secrets(secrets)
        server = EmbeddedPostgres(
            self._shared.path / "postgres", secrets.postgres_port, secrets.superuser_password
        )
        await server.initialise()
        await server.start()
        try:
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
        """A stack that begins with nothing but the usual templates, for a section that leaves much behind."""
        folder = DataFolder(self._folder / f"fresh-{next(_NUMBERS)}")
        with self._started(folder, settings) as stack:
            yield folder, stack

    @contextmanager
    def _started(self, folder: DataFolder, settings: Mapping[str, str]) -> Iterator[StackFile]:
        with _environment(settings):
            api, temporal, temporal_ui = free_ports(3)
            with serving(folder, Ports(api, temporal, temporal_ui, postgres=None), keep=False) as stack:
                self.servers = self.servers or asyncio.run(machine.describe_servers(stack))
                yield stack

    async def _build(self, specs: Sequence[TemplateSpec]) -> None:
        async with self.postgres(specs):
            pass


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """This process's environment, which the stack inherits, with none of the caller's settings in it."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("ODS_")]:
        del os.environ[name]
    os.environ |= settings
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
