"""A client of the stack's API that measures times."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import asyncpg
import httpx

from ods.embedded.data_folder import ClientEntry, StackFile
from ods.model.operations import Template
from ods.model.origins import CopyMode
from ods.registry.instances.naming import database_name

_POLL_SECONDS = 0.005
_TIMEOUT_SECONDS = 120
_CONNECTIONS = 120
_IDLE_SECONDS = 2
"""A connection is reused within this time only: after five seconds, uvicorn closes it."""


@dataclass(frozen=True)
class Accepted:
    """A request that was answered with 202, after `took` milliseconds."""

    instance: int
    job: str
    took: float


@dataclass(frozen=True)
class Created:
    """An instance, and the milliseconds from its POST to the 202 and to `Completed`."""

    instance: int
    database: str
    accepted: float
    completed: float


class Client:
    """Creates and deletes instances, each timed as a client sees it that polls the job.

    Args:
        stack: the stack whose API to use.
        entry: id and secret of the client; by default, of the one that the stack has registered.
        connections: how many are open at most.
    """

    def __init__(
        self, stack: StackFile, entry: ClientEntry | None = None, connections: int = _CONNECTIONS
    ) -> None:
        self._entry = entry or stack["client"]
        limits = httpx.Limits(
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=_IDLE_SECONDS,
        )
        self.http = httpx.AsyncClient(
            base_url=stack["api"]["url"], timeout=_TIMEOUT_SECONDS, limits=limits, trust_env=False
        )

    @classmethod
    def of_tenant(cls, stack: StackFile, tenant: str, address: str, connections: int = _CONNECTIONS) -> Self:
        """The client that is registered with a tenant of another API, which is at `address`."""
        client = cls(stack, connections=connections)
        client.http.base_url = httpx.URL(address)
        client.http.headers["tenant"] = tenant
        return client

    async def __aenter__(self) -> Self:
        form = {
            "grant_type": "client_credentials",
            "client_id": self._entry["id"],
            "client_secret": self._entry["secret"],
            "scope": "edfi_admin_api/full_access",
        }
        token = (await self.http.post("/connect/token", data=form)).raise_for_status().json()["access_token"]
        self.http.headers["Authorization"] = f"Bearer {token}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.http.aclose()

    async def register(self, name: str) -> ClientEntry:
        """Register another client, with the secret of this one."""
        entry = ClientEntry(id=name, secret=self._entry["secret"])
        form = {"ClientId": name, "ClientSecret": entry["secret"], "DisplayName": name}
        (await self.http.post("/connect/register", data=form)).raise_for_status()
        return entry

    async def request(self, name: str, template: Template = Template.MINIMAL) -> Accepted:
        """Request an instance."""
        return await self._accepted("POST", "/v2/dbInstances", {"name": name, "databaseTemplate": template})

    async def request_delete(self, instance: int) -> Accepted:
        """Request that an instance is deleted."""
        return await self._accepted("DELETE", f"/v2/dbInstances/{instance}")

    async def create(self, name: str, template: Template = Template.MINIMAL) -> Created:
        """Create an instance."""
        started = time.perf_counter()
        accepted = await self.request(name, template)
        await self.completed(accepted.job)
        took = milliseconds_since(started)
        return Created(accepted.instance, database_name(name, template), accepted.took, took)

    async def copy(self, name: str, source: int, mode: CopyMode) -> Created:
        """Create an instance as a copy of another one."""
        started = time.perf_counter()
        body = {"name": name, "copyOf": source, "mode": mode}
        accepted = await self._accepted("POST", "/v2/dbInstances", body)
        await self.completed(accepted.job)
        took = milliseconds_since(started)
        return Created(accepted.instance, database_name(name, Template.MINIMAL), accepted.took, took)

    async def reset(self, instance: int) -> float:
        """Reset an instance; returns the milliseconds until `Completed`."""
        started = time.perf_counter()
        await self.completed((await self._accepted("POST", f"/v2/dbInstances/{instance}/reset")).job)
        return milliseconds_since(started)

    async def delete(self, instance: int) -> None:
        """Delete an instance."""
        await self.completed((await self.request_delete(instance)).job)

    async def undelete(self, instance: int) -> None:
        """Bring an instance back from the trash."""
        await self.completed((await self._accepted("POST", f"/v2/dbInstances/{instance}/undelete", {})).job)

    async def request_backup(self, instance: int) -> str:
        """Request a backup of an instance; returns the id of its job."""
        answer = await self.http.post(f"/v2/dbInstances/{instance}/backups")
        return str(answer.raise_for_status().json()["jobId"])

    async def is_under_way(self, job: str) -> bool:
        """Whether `job` has not ended yet."""
        return (await self._job(job))["status"] in ("Pending", "InProgress")

    async def back_up(self, instance: int) -> str:
        """Make a backup of an instance; returns the id of the backup."""
        answer = await self.http.post(f"/v2/dbInstances/{instance}/backups")
        requested = answer.raise_for_status().json()
        await self.completed(requested["jobId"])
        return str(requested["backupId"])

    async def restore(self, name: str, backup: str) -> int:
        """Create an instance from a backup; returns its id."""
        accepted = await self._accepted("POST", "/v2/dbInstances", {"name": name, "backupId": backup})
        await self.completed(accepted.job)
        return accepted.instance

    async def snapshot(self, instance: int) -> None:
        """Make a snapshot of an instance."""
        row = (await self.http.get(f"/v2/dbInstances/{instance}")).raise_for_status().json()
        answer = await self.http.post(f"/v2/odsInstances/{row['odsInstanceId']}/snapshots")
        await self.completed(answer.raise_for_status().json()["jobId"])

    async def undo_reset(self, instance: int) -> None:
        """Bring back the database that was replaced last."""
        await self.completed((await self._accepted("POST", f"/v2/dbInstances/{instance}/reset/undo")).job)

    async def purge(self, instance: int) -> None:
        """Delete an instance for good."""
        path = f"/v2/dbInstances/{instance}?purge=true"
        await self.completed((await self._accepted("DELETE", path)).job)

    async def change(self, instance: int, attributes: dict[str, Any]) -> None:
        """Change attributes of an instance."""
        (await self.http.patch(f"/v2/dbInstances/{instance}", json=attributes)).raise_for_status()

    async def completed(self, job: str, poll: float = _POLL_SECONDS) -> None:
        """Wait until `job` is done, asking every `poll` seconds.

        Raises:
            RuntimeError: the job ended in `Error`.
        """
        while (state := await self._job(job))["status"] != "Completed":
            if state["status"] == "Error":
                raise RuntimeError(f"{job}: {state['errorMessage']}")
            await asyncio.sleep(poll)

    async def _job(self, job: str) -> dict[str, Any]:
        state: dict[str, Any] = (await self.http.get(f"/v2/jobs/{job}")).raise_for_status().json()
        return state

    async def _accepted(self, method: str, path: str, body: dict[str, Any] | None = None) -> Accepted:
        started = time.perf_counter()
        answer = (await self.http.request(method, path, json=body)).raise_for_status()
        took = milliseconds_since(started)
        return Accepted(answer.json()["id"], answer.json()["jobId"], took)


async def first_select(stack: StackFile, database: str) -> None:
    """Connect to a new database, cloned from a template of the benchmark, and read from it."""
    session = await asyncpg.connect(stack["postgres"]["master_dsn"], database=database)
    try:
        await session.fetchval("SELECT id FROM filling LIMIT 1")
    finally:
        await session.close()


async def steadily(send: Callable[[int], Awaitable[object]], requests: int, per_second: float) -> list[float]:
    """Milliseconds of each request, from the moment at which it was due, even if it was sent late."""
    start = time.perf_counter()
    moments = [start + number / per_second for number in range(requests)]

    async def timed(number: int, moment: float) -> float:
        await asyncio.sleep(moment - time.perf_counter())
        await send(number)
        return milliseconds_since(moment)

    return await asyncio.gather(*(timed(number, moment) for number, moment in enumerate(moments)))


def milliseconds_since(started: float) -> float:
    """Milliseconds since the performance counter was at `started`."""
    return (time.perf_counter() - started) * 1000
