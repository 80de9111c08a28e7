"""A job that waits for the operator's word says so wherever clients, operators and persons look."""

import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from html import unescape
from tempfile import TemporaryFile
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from ods.databases.ownership import Owner
from ods.embedded.polling import wait_until
from ods.registry.figures import RegistryFigures
from ods.registry.storage.engine import create_registry_engine
from ods.settings.settings import Settings
from tests import preloaded, registries
from tests.api.server import serving
from tests.api.service import bearer, served
from tests.secret_search import as_secret
from tests.servers import (
    SUPERUSER_PASSWORD,
    environment,
    make_settings,
    seeded,
    server_folder,
    service_dsn,
    session,
    unsafe_postgres,
)

CLIENT, SECRET = "a-person", as_secret("A-secret-of-32-characters-or-more-1!")
OTHERS = str(uuid.uuid4())
"""Another installation, which has a database on the server."""
BANNER = "jobs wait until the operator confirms the installation"
LIVE = {"HX-Request": "true", "Console-Live": "1"}


@pytest.fixture
async def settings() -> AsyncIterator[Settings]:
    """Those of an installation that shares its server without the operator's word."""
    with server_folder() as folder:
        server = unsafe_postgres(folder / "data", SUPERUSER_PASSWORD)
        async with seeded(server):
            await registries.prepare(server)
            dsn = await registries.clone(server)
            its = ("default", 7, "CreateInstanceJob-7-1", str(uuid.uuid4()), OTHERS, 1)
            owner = Owner(*its, database_id=str(uuid.uuid4()), revision=str(uuid.uuid4()))
            async with session(service_dsn(server, "postgres")) as admin:
                await admin.execute('CREATE DATABASE "of_others"')
                await admin.execute(f"COMMENT ON DATABASE \"of_others\" IS '{owner.comment}'")
            yield make_settings(server, dsn, master_dsn=service_dsn(server, "postgres"), shared_server=False)


@dataclass(frozen=True)
class Service:
    """What clients see of a service.

    Attributes:
        api: a client of its API.
        settings: its settings.
    """

    api: httpx.AsyncClient
    settings: Settings

    async def json(self, path: str) -> Any:
        answer = await self.api.get(path)
        assert answer.is_success, answer.text
        return answer.json()

    async def instance(self) -> dict[str, Any]:
        """The only instance."""
        found = await self.json("/v2/dbInstances")
        return dict(found[0]) if found else {"waiting": None, "status": None}

    async def health(self) -> dict[str, Any]:
        """How the installation is, and the whole service."""
        told = await self.json("/health")
        (part,) = (part for part in told["results"] if part["name"] == "installation")
        return {"service": told["status"], **part}

    async def waiting_for(self) -> dict[str, float]:
        """How many jobs wait for what, as metrics tell it."""
        engine = create_registry_engine(self.settings.admin_dsn.get_secret_value())
        try:
            samples = await RegistryFigures(engine, "default", self.settings).read()
        finally:
            await engine.dispose()
        named = {it.labels[0]: it.value for it in samples if it.figure.name == "ods_waiting_for"}
        return {what: value for what, value in named.items() if value}

    async def sign_in(self) -> None:
        """Sign in to the console."""
        page = (await self.api.get("/console/sign-in")).text
        hidden = {name: unescape(value) for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', page)}
        form = {**hidden, "client_id": CLIENT, "client_secret": SECRET}
        answer = await self.api.post("/console/sign-in", data=form)
        assert answer.status_code == 303, answer.text

    async def console(self, path: str, **headers: str) -> str:
        """A page of the console, or a part of one, as it is read."""
        answer = await self.api.get(f"/console{path}", headers=headers)
        assert answer.is_success, answer.text
        return unescape(answer.text)


@pytest.fixture
async def service(settings: Settings, temporal: Client) -> AsyncIterator[Service]:
    address = temporal.service_client.config.target_host
    async with (
        served(settings, temporal),
        serving(settings, TEMPORAL_ADDRESS=address, ODS_TASK_QUEUE=settings.task_queue) as server,
        httpx.AsyncClient(base_url=server.url) as api,
    ):
        form = {"ClientId": CLIENT, "ClientSecret": SECRET, "DisplayName": CLIENT}
        assert (await api.post("/connect/register", data=form)).is_success
        api.headers.update(bearer(settings))
        yield Service(api, settings)


@pytest.mark.long
async def test_create_says_everywhere_that_it_waits_until_the_operator_confirms_the_installation(
    service: Service, name: str
) -> None:
    variables = environment(service.settings)
    client = {"ODS_CLIENT_ID": CLIENT, "ODS_CLIENT_SECRET": SECRET}
    words = ("instance", "create", name, "--wait", "--api-url", str(service.api.base_url))
    with TemporaryFile() as output:
        command = await preloaded.start(
            "ods.cli", *words, env=variables | client, stdout=output, stderr=output
        )

        def printed() -> str:
            output.seek(0)
            return output.read().decode()

        async def waits() -> bool:
            return bool((await service.instance())["waiting"]) and "waits: " in printed()

        await wait_until(waits, 30)
        await says_that_it_waits(service)
        assert f"{name}: waits: Another installation has databases on the server" in printed()
        assert "`ods recover --apply --confirm`, or ODS_SHARED_SERVER=true" in printed()
        assert command.returncode is None

        confirmed = preloaded.run("ods.cli", "recover", "--apply", "--yes", "--confirm", env=variables)
        assert "Confirmed." in confirmed.stdout, confirmed.stderr

        async def completed() -> bool:
            return bool((await service.instance())["status"] == "Completed")

        await wait_until(completed, 30)
        assert await command.wait() == 0, printed()
    await says_nothing_of_a_wait(service)


async def says_that_it_waits(service: Service) -> None:
    instance = await service.instance()
    job = await service.json(f"/v2/jobs/{instance['jobId']}")
    for told in (instance, job):
        assert told["status"] == "InProgress"
        assert told["errorMessage"].startswith("The job has not failed. It waits, until ")
        assert told["errorMessage"].endswith(told["waiting"]["for"])
    reason = str(job["waiting"]["for"])
    assert OTHERS in reason
    assert "`ods recover --apply --confirm`, or ODS_SHARED_SERVER=true" in reason
    (managed,) = await service.json("/v2/odsInstances/manage")
    assert managed["status"] == "CreateInProgress"

    degraded = {"service": "Degraded", "name": "installation", "status": "Degraded", "detail": reason}

    async def is_degraded() -> bool:
        return await service.health() == degraded

    await wait_until(is_degraded, 5)  # a report is given again for two seconds
    assert await service.waiting_for() == {"operator": 1}

    await service.sign_in()
    banner = f"{BANNER}: {reason}"
    head = f"/instances/{instance['id']}"
    for path in ("/instances", head):
        assert banner in await service.console(path)
    assert banner in await service.console("/attention", **LIVE)
    for path in ("/instances/rows", f"{head}/head", f"/jobs/{job['jobId']}/story"):
        assert f"Waits: {reason}" in await service.console(path, **LIVE)


async def says_nothing_of_a_wait(service: Service) -> None:
    instance = await service.instance()
    job = await service.json(f"/v2/jobs/{instance['jobId']}")
    for told in (instance, job):
        assert (told["status"], told["errorMessage"], told["waiting"]) == ("Completed", None, None)

    async def is_healthy() -> bool:
        return bool((await service.health())["service"] == "Healthy")

    await wait_until(is_healthy, 30)
    assert await service.waiting_for() == {}

    async def is_without_banner() -> bool:
        return BANNER not in await service.console("/instances")

    await wait_until(is_without_banner, 30)  # the last look at the server has found it as well
    assert BANNER not in await service.console(f"/instances/{instance['id']}")
    assert BANNER not in await service.console("/attention", **LIVE)
    assert "Waits:" not in await service.console("/instances/rows", **LIVE)
