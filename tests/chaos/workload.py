"""Clients that create, delete, retry, post names that are taken, and poll: all at once, whatever dies.

Each remembers what it was promised. A request whose answer never came is repeated until there is an answer;
what became of the first try is then unknown, and either outcome is right.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

import asyncpg
import httpx

from tests.chaos.checker import Request
from tests.chaos.evidence import History, connected

Json = dict[str, Any]

_TIMEOUT_SECONDS = 20
_PAUSE_SECONDS = 0.3
_POLL_SECONDS = 0.05
_HURRY_SECONDS = 10
TIMEOUT_SECONDS = 180
_OBSTACLE_SECONDS = 60
_PURGED = 0.3  # of the deletes; the others leave the database in the trash
_BROKEN = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError)
_ENDED = ("Completed", "Error")
_REFUSALS = (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
_HAS_NO_COMMENT = "SELECT shobj_description(oid, 'pg_database') IS NULL FROM pg_database WHERE datname = $1"
_SCOPE = "edfi_admin_api/full_access"


@dataclass
class Ledger:
    """What all clients together asked for and were told; `oddities` should never have been answered.

    `history` is what was seen on the servers meanwhile.
    """

    requests: list[Request] = field(default_factory=list)
    outcomes: dict[str, str] = field(default_factory=dict)
    operations: Counter[tuple[str, str]] = field(default_factory=Counter)
    oddities: list[str] = field(default_factory=list)
    history: History = field(default_factory=History)

    def told(self) -> Sequence[Request]:
        """The requests with the last that was heard of their jobs."""
        return [replace(request, outcome=self.outcomes.get(request.job or "")) for request in self.requests]


class Service:
    """The API of the stack, as a client that does not give up.

    Args:
        url: where it is.
        credentials: id and secret of a registered client.
        ledger: where doubts and oddities are noted.
        timeout: how many seconds it repeats a request, or waits for the end of a job.
    """

    def __init__(self, url: str, credentials: Json, ledger: Ledger, timeout: float = TIMEOUT_SECONDS) -> None:
        self._timeout = timeout
        self._http = httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_SECONDS, trust_env=False)
        self._form = {
            "grant_type": "client_credentials",
            "scope": _SCOPE,
            "client_id": credentials["id"],
            "client_secret": credentials["secret"],
        }
        self._token = ""
        self.ledger = ledger

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def answers(self) -> bool:
        """Whether the API answers at all."""
        try:
            await self._http.get("/", timeout=1)
        except httpx.TransportError:
            return False
        return True

    async def send(
        self, method: str, path: str, body: Json | None = None, doubt: Callable[[], None] = lambda: None
    ) -> httpx.Response:
        """The answer to a request that is repeated until there is one; each try that may have been accepted
        without an answer is a `doubt`.

        Raises:
            TimeoutError: there was none for minutes.
        """
        async with asyncio.timeout(self._timeout):
            while True:
                answer = await self._tried(method, path, body, doubt)
                if answer is not None:
                    return answer
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _tried(
        self, method: str, path: str, body: Json | None, doubt: Callable[[], None]
    ) -> httpx.Response | None:
        """One try; None if it must be repeated."""
        answer = await self._asked(method, path, body, doubt)
        if answer is None or answer.is_success or answer.status_code in _REFUSALS:
            return answer
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            self._token = ""
            return None
        doubt()  # the registry may have gone away in the middle of a commit
        if answer.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
            self.ledger.oddities.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return None

    async def _asked(
        self, method: str, path: str, body: Json | None, doubt: Callable[[], None]
    ) -> httpx.Response | None:
        if not self._token:
            await self._authenticate()
            return None
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            return await self._http.request(method, path, json=body, headers=headers)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            return None
        except _BROKEN:
            doubt()
            return None

    async def _authenticate(self) -> None:
        with suppress(httpx.TransportError):
            answer = await self._http.post("/connect/token", data=self._form)
            if answer.is_success:
                self._token = answer.json()["access_token"]

    async def create(self, name: str, template: str) -> Json | None:
        """Request an instance; None if it was refused."""
        body = {"name": name, "databaseTemplate": template}
        return await self._accepted("Create", name, "POST", "/v2/dbInstances", body)

    async def delete(self, instance: int, name: str, *, purge: bool = False) -> Json | None:
        """Request the deletion of an instance, also of its database if `purge`; None if it was refused."""
        way = "?purge=true" if purge else ""
        return await self._accepted("Delete", name, "DELETE", f"/v2/dbInstances/{instance}{way}")

    async def rename(self, instance: int, name: str, new_name: str) -> Json | None:
        """Request that an instance, created as `name`, gets another name; None if it was refused."""
        return await self._accepted("Rename", name, "PUT", f"/v2/dbInstances/{instance}", {"name": new_name})

    async def retry(self, instance: int, name: str) -> Json | None:
        """Request that the failed job is tried again; None if it was refused."""
        return await self._accepted("Retry", name, "POST", f"/v2/dbInstances/{instance}/retry")

    async def _accepted(
        self, operation: str, name: str, method: str, path: str, body: Json | None = None
    ) -> Json | None:
        def doubt() -> None:
            if operation != "Retry":  # which makes no job
                self.ledger.requests.append(Request(operation, name))

        answer = await self.send(method, path, body, doubt)
        if not answer.is_success:
            return None
        accepted: Json = answer.json()
        job = accepted["jobId"]
        self.ledger.requests.append(Request(job.partition("InstanceJob-")[0], name, job))
        self.ledger.outcomes.pop(job, None)
        return accepted

    async def job(self, job: str) -> Json:
        """A job, as the API tells it."""
        answer = await self.send("GET", f"/v2/jobs/{job}")
        if not answer.is_success:
            if not self.ledger.history.has_forgotten(job):
                self.ledger.oddities.append(f"{job}: {answer.status_code} {answer.text[:200]}")
            return {"jobId": job, "status": "Error", "errorMessage": "it is not known"}
        told: Json = answer.json()
        self.ledger.outcomes[job] = told["status"]
        return told

    async def ended(self, job: str) -> Json:
        """Wait until a job has ended.

        Raises:
            TimeoutError: it has not for minutes.
        """
        started = time.monotonic()
        async with asyncio.timeout(self._timeout):
            while (told := await self.job(job))["status"] not in _ENDED:
                # Clients that ask often take the processors from the jobs that they ask for.
                hurried = time.monotonic() - started < _HURRY_SECONDS
                await asyncio.sleep(_POLL_SECONDS if hurried else _PAUSE_SECONDS)
        return told

    async def live(self, name: str) -> int | None:
        """Id of the live instance of this name."""
        answer = await self.send("GET", f"/v2/dbInstances?name={name}")
        return next((row["id"] for row in answer.json() if row["status"] != "Deleted"), None)


class Customer:
    """One client, with instances of its own and an eye on names that others want as well.

    Args:
        number: tells it from the others.
        service: the API.
        rng: decides what it does.
        contested: names that every client may post.
        taken: names whose database exists already, and is no instance's.
        server_dsn: a superuser's address of the server, to put obstacles into the way.
    """

    def __init__(
        self,
        number: int,
        service: Service,
        rng: random.Random,
        contested: Sequence[str],
        names_in_use: Sequence[str],
        server_dsn: str,
    ) -> None:
        self._number = number
        self._service = service
        self._rng = rng
        self._contested = contested
        self._names_in_use = names_in_use
        self._server_dsn = server_dsn
        self._names = 0
        self._instances: dict[int, str] = {}
        self._jobs: list[str] = []
        self._actions: dict[Callable[[], Awaitable[str]], int] = {
            self._create: 36,
            self._delete: 24,
            self._rename: 9,
            self._rename_obstructed: 2,
            self._create_contested: 9,
            self._create_twice: 6,
            self._create_taken: 5,
            self._create_obstructed: 3,
            self._retry: 5,
            self._poll: 8,
            self._sweep: 2,
        }

    async def work(self, moments: Sequence[float], end: float) -> None:
        """Act at each of `moments`, or as soon after it as the one before is done; stop at `end`."""
        actions, weights = list(self._actions), list(self._actions.values())
        for moment in moments:
            await asyncio.sleep(moment - time.monotonic())
            if time.monotonic() > end:
                return
            self._forget()
            # With nothing to delete, retry or poll yet, the first thing is to create.
            action = self._rng.choices(actions, weights)[0] if self._instances else self._create
            try:
                answer = await action()
            except TimeoutError:
                answer = "unanswered"
                self._service.ledger.oddities.append(f"{_told(action)}: no answer for minutes")
            self._service.ledger.operations[_told(action), answer] += 1

    def _forget(self) -> None:
        """Give up the instances that a restore has removed: their ids are given to others."""
        removed = self._service.ledger.history.removed
        self._instances = {it: name for it, name in self._instances.items() if (it, name) not in removed}

    def _new_name(self) -> str:
        self._names += 1
        return f"Client {self._number} {self._names}"

    def _template(self) -> str:
        return self._rng.choice(("Minimal", "Minimal", "Sample"))

    async def _request(self, name: str, template: str) -> str:
        accepted = await self._service.create(name, template)
        if accepted is not None:
            self._jobs.append(accepted["jobId"])
        found = accepted["id"] if accepted else await self._service.live(name)
        if found is not None:
            self._instances[found] = name
        return "accepted" if accepted else "refused"

    async def _create(self) -> str:
        return await self._request(self._new_name(), self._template())

    async def _create_contested(self) -> str:
        return await self._request(self._rng.choice(self._contested), "Minimal")

    async def _create_taken(self) -> str:
        return await self._request(self._rng.choice(self._names_in_use), "Minimal")

    async def _create_twice(self) -> str:
        name, template = self._new_name(), self._template()
        before, restores = len(self._service.ledger.requests), self._service.ledger.history.restores
        answers = await asyncio.gather(self._request(name, template), self._request(name, template))
        doubts = [it for it in self._service.ledger.requests[before:] if it.name == name and it.job is None]
        restored = self._service.ledger.history.restores > restores
        if answers.count("accepted") != 1 and not doubts and not restored:
            self._service.ledger.oddities.append(f"two requests for '{name}' were {answers}")
        return "accepted" if "accepted" in answers else "refused"

    async def _create_obstructed(self) -> str:
        """An instance that fails because its database's name is taken, until it is free again."""
        name = self._new_name()
        answer = await self._obstructed(name, lambda: self._request(name, "Minimal"))
        for instance in [found for found, known in self._instances.items() if known == name]:
            await self._service.retry(instance, name)
        return answer

    async def _obstructed(self, name: str, request: Callable[[], Awaitable[str]]) -> str:
        """Make a request while the database that `name` leads to is no instance's, and let it fail."""
        database = f"EdFi_Ods_{name.replace(' ', '_')}_Minimal"
        await insist(self._server_dsn, f'CREATE DATABASE "{database}"')
        try:
            answer = await request()
            if answer == "accepted":
                await self._failed(self._jobs[-1])
        finally:
            await drop_unmarked(self._server_dsn, database)
        return answer

    async def _rename(self) -> str:
        instance = self._rng.choice(list(self._instances))
        return await self._renamed(instance, self._name_after(instance))

    async def _rename_obstructed(self) -> str:
        """A rename that fails, of an instance that must go on; some are retried, others are left so."""
        instance = self._rng.choice(list(self._instances))
        name = self._name_after(instance)
        answer = await self._obstructed(name, lambda: self._renamed(instance, name))
        if self._rng.random() < 0.5:
            await self._service.retry(instance, self._instances[instance])
        return answer

    def _name_after(self, instance: int) -> str:
        """Another name for an instance, which tells its first."""
        self._names += 1
        return f"{self._instances[instance]} r{self._names}"

    async def _renamed(self, instance: int, new_name: str) -> str:
        accepted = await self._service.rename(instance, self._instances[instance], new_name)
        if accepted is None:
            return "refused"
        self._jobs.append(accepted["jobId"])
        return "accepted"

    async def _failed(self, job: str) -> None:
        """Give an obstructed job the time to find out."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_OBSTACLE_SECONDS):
                await self._service.ended(job)

    async def _delete(self) -> str:
        instance = self._rng.choice(list(self._instances))
        purge = self._rng.random() < _PURGED
        accepted = await self._service.delete(instance, self._instances[instance], purge=purge)
        if accepted is None:
            return "refused"
        self._jobs.append(accepted["jobId"])
        del self._instances[instance]
        return "accepted"

    async def _retry(self) -> str:
        failed = [instance for instance, name in self._instances.items() if name in self._names_in_use]
        instance = self._rng.choice(failed or list(self._instances))
        accepted = await self._service.retry(instance, self._instances[instance])
        return "accepted" if accepted else "refused"

    async def _poll(self) -> str:
        return str((await self._service.job(self._rng.choice(self._jobs)))["status"])

    async def _sweep(self) -> str:
        answer = await self._service.send("POST", "/v2/sweep")
        return "accepted" if answer.is_success else "refused"


async def insist(dsn: str, statement: str) -> None:
    """Run DDL as often as it takes; that it was done before counts."""
    while True:
        try:
            async with connected(dsn) as server:
                await server.execute(statement)
        except asyncpg.DuplicateDatabaseError:
            return
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            return


async def drop_unmarked(dsn: str, database: str) -> None:
    """Drop a database that no instance has, as often as it takes; one that an instance has got is left."""
    while True:
        try:
            async with connected(dsn) as server:
                if await server.fetchval(_HAS_NO_COMMENT, database):
                    await server.execute(f'DROP DATABASE IF EXISTS "{database}"')
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            return


def _told(action: Callable[[], Awaitable[str]]) -> str:
    return getattr(action, "__name__", "").strip("_").replace("_", " ")
