"""The API as a client sees it that does not give up, and what it was promised.

A request whose answer never came is repeated until there is an answer. Without an `Idempotency-Key`, what
became of the first try is then unknown, and either outcome is right; with one, it is the same request.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

import asyncpg
import httpx

from tests.chaos.evidence import BROKEN, History, connected
from tests.chaos.violations import BACKED_UP, Attributes, Request, Together

Json = dict[str, Any]

_TIMEOUT_SECONDS = 20
_PAUSE_SECONDS = 0.3
_POLL_SECONDS = 0.05
_HURRY_SECONDS = 10
TIMEOUT_SECONDS = 180
_BROKEN = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError)
_ENDED = ("Completed", "Error")
_REFUSALS = (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
_HAS_NO_COMMENT = "SELECT shobj_description(oid, 'pg_database') IS NULL FROM pg_database WHERE datname = $1"
_INSTANCES = "/v2/dbInstances"
_BULK = f"{_INSTANCES}/bulk"
_SCOPE = "edfi_admin_api/full_access"


@dataclass
class Ledger:
    """What all clients together asked for and were told; `oddities` should never have been answered.

    `history` is what was seen on the servers meanwhile, and `attributes` what instances have, by id and the
    name that they were created under. `together` are the requests for several instances.
    """

    requests: list[Request] = field(default_factory=list)
    outcomes: dict[str, str] = field(default_factory=dict)
    operations: Counter[tuple[str, str]] = field(default_factory=Counter)
    oddities: list[str] = field(default_factory=list)
    history: History = field(default_factory=History)
    attributes: dict[tuple[int, str], Attributes] = field(default_factory=dict)
    together: list[Together] = field(default_factory=list)

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
        self._keys = itertools.count(1)
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
        self,
        method: str,
        path: str,
        body: Json | None = None,
        doubt: Callable[[], None] = lambda: None,
        key: str | None = None,
    ) -> httpx.Response:
        """The answer to a request that is repeated until there is one.

        Args:
            method: of the request.
            path: of the request.
            body: of the request.
            doubt: called for each try that may have been accepted without an answer.
            key: by which the API knows that a try is the same request.

        Raises:
            TimeoutError: there was none for minutes.
        """
        headers = {} if key is None else {"Idempotency-Key": key}
        async with asyncio.timeout(self._timeout):
            while True:
                answer = await self._tried(method, path, body, doubt, headers)
                if answer is not None:
                    return answer
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _tried(
        self, method: str, path: str, body: Json | None, doubt: Callable[[], None], headers: dict[str, str]
    ) -> httpx.Response | None:
        """One try; None if it must be repeated."""
        answer = await self._asked(method, path, body, doubt, headers)
        if answer is None or answer.is_success:
            return answer
        if answer.status_code in _REFUSALS:  # unless an earlier try under the same key is under way
            return None if "Retry-After" in answer.headers else answer
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            self._token = ""
            return None
        doubt()  # the registry may have gone away in the middle of a commit
        if answer.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
            self.ledger.oddities.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return None

    async def _asked(
        self, method: str, path: str, body: Json | None, doubt: Callable[[], None], headers: dict[str, str]
    ) -> httpx.Response | None:
        if not self._token:
            await self._authenticate()
            return None
        headers = headers | {"Authorization": f"Bearer {self._token}"}
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
        return await self.request("Create", name, "POST", _INSTANCES, body)

    async def delete(self, instance: int, name: str, way: str = "Trash") -> Json | None:
        """Request the deletion of an instance; None if it was refused.

        Args:
            instance: its id.
            name: that it was created under.
            way: `Trash`, `Drop`, `BACKED_UP` or `Detach`: what becomes of its database.
        """
        options = {
            "Trash": "",
            "Drop": "?purge=true",
            BACKED_UP: "?purge=true&finalBackup=true",
            "Detach": "?detach=true",
        }
        return await self.request(way, name, "DELETE", f"{_INSTANCES}/{instance}{options[way]}")

    async def purge(self, instance: int, name: str, *, final_backup: bool) -> Json | None:
        """Request that an instance in the trash is purged, perhaps after a backup; None if it was refused."""
        query = "?finalBackup=true" if final_backup else ""
        return await self.request("Purge", name, "DELETE", f"/v2/trash/{instance}{query}")

    async def rename(self, instance: int, name: str, new_name: str) -> Json | None:
        """Request that an instance, created as `name`, gets another name; None if it was refused."""
        return await self.request("Rename", name, "PUT", f"{_INSTANCES}/{instance}", {"name": new_name})

    async def create_together(self, entries: Sequence[Json], fresh: Collection[str]) -> list[Json] | None:
        """Request several instances at once; None if they were refused.

        Args:
            entries: what is said of each.
            fresh: the names of those that no other request asks for.
        """
        self.ledger.together.append(Together("Create", frozenset(fresh)))
        names = [entry["name"] for entry in entries]
        return await self._request_together("Create", names, _BULK, {"instances": entries})

    async def delete_together(self, instances: Mapping[int, str]) -> list[Json] | None:
        """Request that instances are deleted that no other request deletes; None if that was refused.

        Args:
            instances: the names that they were created under, by their ids.
        """
        self.ledger.together.append(Together("Delete", frozenset(instances.values())))
        ids = {"ids": list(instances)}
        return await self._request_together("Trash", list(instances.values()), f"{_BULK}/delete", ids)

    async def undelete(self, instance: int, name: str, new_name: str | None = None) -> Json | None:
        """Request that an instance comes back from the trash, perhaps under another name; None if refused."""
        body = {"name": new_name} if new_name else {}
        return await self.request("Undelete", name, "POST", f"{_INSTANCES}/{instance}/undelete", body)

    async def back_up(self, instance: int, name: str) -> Json | None:
        """Request a backup of an instance; None if it was refused."""
        return await self.request("Backup", name, "POST", f"{_INSTANCES}/{instance}/backups")

    async def restore(self, name: str, backup: str) -> Json | None:
        """Request an instance that is restored from a backup; None if it was refused."""
        return await self.request("Create", name, "POST", _INSTANCES, {"name": name, "backupId": backup})

    async def copy(self, name: str, source: int, mode: str) -> Json | None:
        """Request an instance that is a copy of another, `online` or `closed`; None if it was refused."""
        body = {"name": name, "copyOf": source, "mode": mode}
        return await self.request("Create", name, "POST", _INSTANCES, body)

    async def reset(self, instance: int, name: str, origin: Json) -> Json | None:
        """Request that another database takes the place of an instance's; None if it was refused.

        Args:
            instance: its id.
            name: that it was created under.
            origin: members of the body that name a copy or a backup; without any, it is a fresh clone.
        """
        return await self.request("Reset", name, "POST", f"{_INSTANCES}/{instance}/reset", origin)

    async def undo_reset(self, instance: int, name: str) -> Json | None:
        """Request that the database comes back that was replaced last; None if it was refused."""
        return await self.request("UndoReset", name, "POST", f"{_INSTANCES}/{instance}/reset/undo")

    async def snapshot(self, ods_instance: int, name: str) -> Json | None:
        """Request a snapshot of an instance for its readers; None if it was refused."""
        return await self.request("Snapshot", name, "POST", f"/v2/odsInstances/{ods_instance}/snapshots")

    async def retry(self, instance: int, name: str) -> Json | None:
        """Request that the failed job is tried again; None if it was refused."""
        return await self.request("Retry", name, "POST", f"{_INSTANCES}/{instance}/retry")

    async def change(self, instance: int, name: str, changes: Json) -> bool:
        """Change attributes of an instance, and note what it has then; false if it was refused."""
        tries: list[None] = []
        answer = await self.send("PATCH", f"{_INSTANCES}/{instance}", changes, lambda: tries.append(None))
        if answer.is_success:
            self.ledger.attributes[instance, name] = _attributes(answer.json())
        elif tries:  # one of them may have been accepted, before the instance came into another state
            self.ledger.attributes.pop((instance, name), None)
        return answer.is_success

    async def request(
        self, operation: str, name: str, method: str, path: str, body: Json | None = None
    ) -> Json | None:
        """Request a job, and note it; None if it was refused.

        Args:
            operation: as for `Request`, or `Retry`, which makes no job.
            name: that the instance was created under.
            method: of the request; every other one has a key, but for PUT, which takes none.
            path: of the request.
            body: of the request.

        Raises:
            TimeoutError: there was no answer for minutes.
        """

        doubtful = [] if operation == "Retry" else [Request(operation, name)]
        accepted = await self._answer(method, path, body, doubtful)
        if accepted is None:
            return None
        job = accepted["jobId"]
        asked = job.partition("InstanceJob-")[0] if operation == "Retry" else operation
        self._note(asked, name, job)
        return accepted

    async def _request_together(
        self, operation: str, names: Sequence[str], path: str, body: Json
    ) -> list[Json] | None:
        """Request a job for each of several instances, and note them; None if the request was refused."""
        accepted = await self._answer("POST", path, body, [Request(operation, name) for name in names])
        if accepted is None:
            return None
        answers: list[Json] = accepted["instances"]
        if len(answers) != len(names):
            self.ledger.oddities.append(f"{path} for {names} was answered with {answers}")
        for name, answer in zip(names, answers, strict=False):
            self._note(operation, name, answer["jobId"])
        return answers

    async def _answer(
        self, method: str, path: str, body: Json | None, doubtful: Sequence[Request]
    ) -> Json | None:
        """What a request was answered with, every other one under a key; None if it was refused.

        Args:
            method: of the request.
            path: of the request.
            body: of the request.
            doubtful: noted for each try that may have been accepted without an answer.
        """

        def doubt() -> None:
            self.ledger.requests.extend(doubtful)

        number = next(self._keys)
        if number % 2 or method == "PUT":
            answer = await self.send(method, path, body, doubt)
        else:
            answer = await self._send_once(method, path, body, doubt, f"storm {number}")
        return answer.json() if answer.is_success else None

    def _note(self, operation: str, name: str, job: str) -> None:
        self.ledger.requests.append(Request(operation, name, job))
        self.ledger.outcomes.pop(job, None)

    async def _send_once(
        self, method: str, path: str, body: Json | None, doubt: Callable[[], None], key: str
    ) -> httpx.Response:
        """Like `send`: there is a doubt only if there is no answer at all."""
        try:
            return await self.send(method, path, body, key=key)
        except TimeoutError:
            doubt()
            raise

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
        answer = await self.send("GET", f"{_INSTANCES}?name={name}")
        return next((row["id"] for row in answer.json() if row["status"] != "Deleted"), None)


async def insist(dsn: str, statement: str) -> None:
    """Run DDL as often as it takes; that it was done before counts."""
    while True:
        try:
            async with connected(dsn) as server:
                await server.execute(statement)
        except asyncpg.DuplicateDatabaseError:
            return
        except BROKEN:
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
        except BROKEN:
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            return


def _attributes(instance: Json) -> Attributes:
    contexts = {context["contextKey"]: context["contextValue"] for context in instance["contexts"]}
    return Attributes(instance["protected"], instance["labels"], contexts)
