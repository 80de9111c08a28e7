"""An HTTP client of the service's API, for the command line."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from time import monotonic, sleep
from typing import Any, Self

import httpx

from ods.embedded.errors import CommandError
from ods.registry.clients.credentials import BACKUP_DOWNLOAD, OAUTH_SCOPES, ClientScope

Json = dict[str, Any]

_SCOPES = tuple(OAUTH_SCOPES[scope] for scope in (ClientScope.FULL_ACCESS, ClientScope.READ_ONLY))
"""OAuth scopes to request, in this order: a client that may only read is refused the first."""
_DOWNLOAD_SCOPES = tuple(f"{scope} {BACKUP_DOWNLOAD}" for scope in _SCOPES)
_TIMEOUT_SECONDS = 30
_POLL_SECONDS = 0.05
_OUTAGE_SECONDS = 30
"""How long `--wait` goes on while the API does not answer."""
_LIMITED_SECONDS = 30
"""How long a command waits until it is given a token, if many commands in a row have requested one."""
_BUSY_SECONDS = 90
"""How long a command waits for an earlier request with the same key: the API gives it up after a minute."""
_REFILL_SECONDS = 600
_FOLLOWING_SECONDS = 600
"""The pass requests a purge within this time that the workflow of its delete could not request."""
_LAST_JOBS = 20
_PAGE = 500
_FINISHED = ("Completed", "Error")


def completed(job: Json) -> Json:
    """The job, which has ended.

    Raises:
        CommandError: it ended in `Error`.
    """
    if job["status"] == "Error":
        raise CommandError(f"{job['jobId']} ended in an error: {job['errorMessage']}")
    return job


class UnreachableError(CommandError):
    """No server answers at the API's address."""


class UnknownInstanceError(CommandError):
    """There is no instance with the name that was given."""


class RefusalError(CommandError):
    """The API has refused a request.

    Attributes:
        errors: what is wrong with each property of it, if the API tells that.
        retry_after: after how many seconds it may be sent again, if another one is in its way.
    """

    def __init__(
        self, reason: str, errors: Mapping[str, Sequence[str]], retry_after: int | None = None
    ) -> None:
        super().__init__(reason)
        self.errors = errors
        self.retry_after = retry_after


class AdminApi:
    """A client of one API; every method may raise `CommandError`, with the reason that the API gives.

    Args:
        url: address of the API, without a path.
        client_id: a client that is registered there.
        client_secret: its secret.
        token_url: where tokens are issued; by default, by the API itself.
        tenant: the client's tenant, where the API serves several.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        client_secret: str,
        token_url: str | None = None,
        tenant: str | None = None,
    ) -> None:
        self._url = url
        headers = {"tenant": tenant} if tenant else {}
        bearer = partial(_Bearer, token_url or f"{url}/connect/token", client_id, client_secret, headers)
        self._download_auth = bearer(_DOWNLOAD_SCOPES)
        self._http = httpx.Client(
            base_url=url,
            headers=headers,
            auth=bearer(_SCOPES),
            timeout=_TIMEOUT_SECONDS,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def has_one_tenant(self) -> bool:
        """Whether the API says that it has one tenant, whatever a request names; no if it does not tell."""
        try:
            answer = self._request("GET", "/v2/tenancy", auth=None)
        except CommandError:
            return False
        return _members(answer).get("tenants") == []

    def create(self, name: str, template: str | None, attributes: Json | None = None) -> Json:
        """Request an instance with these attributes; the answer names its job.

        Args:
            name: its name.
            template: what it starts from; None if the attributes name another origin.
            attributes: further members of the body.
        """
        body = {"name": name, "databaseTemplate": template, **(attributes or {})}
        return self._object("POST", "/v2/dbInstances", json=body)

    def create_all(self, entries: Sequence[Json], key: str) -> list[Json]:
        """Request up to 20 instances, or none of them if anything is wrong; once for each `key`."""
        headers = {"Idempotency-Key": key}
        answer = self._when_free("POST", "/v2/dbInstances/bulk", json={"instances": entries}, headers=headers)
        made: list[Json] = answer.json()["instances"]
        return made

    def plan_all(self, entries: Sequence[Json], key: str) -> Json:
        """What `create_all` would do: a plan; or what it answered, if it was done under this `key` before."""
        headers, query = {"Idempotency-Key": key}, {"dryRun": True}
        content = {"json": {"instances": entries}, "headers": headers, "params": query}
        plan: Json = self._when_free("POST", "/v2/dbInstances/bulk", **content).json()
        return plan

    def change(self, instance: int, attributes: Json) -> Json:
        """Change attributes of an instance; returns the instance."""
        return self._object("PATCH", f"/v2/dbInstances/{instance}", json=attributes)

    def rename(self, instance: int, name: str) -> Json:
        """Request that an instance gets another name; the answer names its job."""
        return self._object("PUT", f"/v2/dbInstances/{instance}", json={"name": name})

    def delete(self, instance: int) -> Json:
        """Request the deletion of an instance; the answer says until when it can come back."""
        return self._object("DELETE", f"/v2/dbInstances/{instance}")

    def purge(self, instance: int, *, final_backup: bool = False) -> Json:
        """Request that the database of a live instance is dropped for good, perhaps after a backup."""
        backup = "&finalBackup=true" if final_backup else ""
        return self._object("DELETE", f"/v2/dbInstances/{instance}?purge=true{backup}")

    def plan_purge(self, instance: int) -> Json:
        """What a purge of a live instance, or of one in the trash, would do: a plan."""
        return self._object("DELETE", f"/v2/dbInstances/{instance}?purge=true&dryRun=true")

    def purge_trash(self, instance: int, *, final_backup: bool = False) -> Json:
        """Request that a deleted instance's database is dropped from the trash, perhaps after a backup."""
        backup = "?finalBackup=true" if final_backup else ""
        return self._object("DELETE", f"/v2/trash/{instance}{backup}")

    def detach(self, instance: int) -> Json:
        """Request the deletion of an instance without its database, which the answer names."""
        return self._object("DELETE", f"/v2/dbInstances/{instance}?detach=true")

    def reset(self, instance: int, origin: Json) -> Json:
        """Request another database for an instance: of this origin, or a fresh clone if that names none."""
        return self._object("POST", f"/v2/dbInstances/{instance}/reset", json=origin)

    def plan_reset(self, instance: int, origin: Json) -> Json:
        """What `reset` would do: a plan."""
        return self._object("POST", f"/v2/dbInstances/{instance}/reset?dryRun=true", json=origin)

    def undo_reset(self, instance: int, database: str | None) -> Json:
        """Request that an instance gets a database back that was replaced: this one, or the last."""
        named = {} if database is None else {"database": database}
        return self._object("POST", f"/v2/dbInstances/{instance}/reset/undo", json=named)

    def undelete(self, instance: int, name: str | None) -> Json:
        """Request that an instance comes back from the trash, under another `name` if there is one."""
        named = {} if name is None else {"name": name}
        return self._object("POST", f"/v2/dbInstances/{instance}/undelete", json=named)

    def trash(self) -> Iterator[Json]:
        """All instances in the trash."""
        return self._pages("/v2/trash")

    def create_snapshot(self, ods_instance: int) -> Json:
        """Request a snapshot of an instance; the answer names its job."""
        return self._object("POST", f"/v2/odsInstances/{ods_instance}/snapshots")

    def snapshots(self, ods_instance: int) -> list[Json]:
        """The snapshots of an instance, the newest first."""
        listed: list[Json] = self._request("GET", f"/v2/odsInstances/{ods_instance}/snapshots").json()
        return listed

    def delete_snapshot(self, ods_instance: int, snapshot: int) -> Json:
        """Request that a snapshot goes."""
        return self._object("DELETE", f"/v2/odsInstances/{ods_instance}/snapshots/{snapshot}")

    def retry(self, instance: int) -> Json:
        """Request that the failed job of an instance is done again; the answer names the job."""
        return self._object("POST", f"/v2/dbInstances/{instance}/retry")

    def database(self, instance: int, name: str | None = None) -> Json:
        """The database of an instance's name, or one of another `name`, as adopting would hand it over."""
        named = {} if name is None else {"databaseName": name}
        found: Json = self._request("GET", f"/v2/dbInstances/{instance}/database", params=named).json()
        return found

    def adopt(self, instance: int, name: str | None = None) -> Json:
        """Hand that database over to the instance."""
        named: Json = {} if name is None else {"databaseName": name}
        return self._object("POST", f"/v2/dbInstances/{instance}/adopt", json=named)

    def instance(self, instance: int) -> Json:
        """A live instance."""
        return self._object("GET", f"/v2/dbInstances/{instance}")

    def usage(self, instance: int) -> Json:
        """How a live instance is used."""
        return self._object("GET", f"/v2/dbInstances/{instance}/usage")

    def id_of(self, name: str) -> int:
        """The id of the live instance with this name.

        Raises:
            UnknownInstanceError: there is none.
        """
        rows = list(self.instances(name=name))
        for row in rows:
            if row["status"] != "Deleted" and row["operation"] != "Purge":
                return int(row["id"])
        hint = " One in the trash is called by its id, which `ods trash` shows." if rows else ""
        raise UnknownInstanceError(f"There is no instance with the name '{name}'.{hint}")

    def id_named(self, name_or_id: str) -> int:
        """The id that this is, if it is a number, or else of the live instance with this name.

        What begins with a zero, as codes of districts do, is no id.

        Raises:
            UnknownInstanceError: there is none.
        """
        is_id = name_or_id.isascii() and name_or_id.isdigit() and not name_or_id.startswith("0")
        return int(name_or_id) if is_id else self.id_of(name_or_id)

    def back_up(self, instance: int) -> Json:
        """Request a backup of an instance; the answer names its job."""
        return self._object("POST", f"/v2/dbInstances/{instance}/backups")

    def backups(self, **filters: str | int | list[str]) -> Iterator[Json]:
        """All backups that match `filters`, the newest first."""
        return self._pages("/v2/backups", **filters)

    def backup(self, backup: str) -> Json:
        """A backup."""
        return self._object("GET", f"/v2/backups/{backup}")

    def verify_backup(self, backup: str) -> Json:
        """Request that a backup is verified; returns the backup."""
        return self._object("POST", f"/v2/backups/{backup}/verify")

    def delete_backup(self, backup: str, *, forget: bool = False) -> None:
        """Delete a backup; `forget`: also if it is in another store."""
        self._request("DELETE", f"/v2/backups/{backup}", params={"forget": "true"} if forget else None)

    @contextmanager
    def dump(self, backup: str) -> Iterator[Iterator[bytes]]:
        """The stored bytes of a backup, piece by piece.

        Raises:
            CommandError: the API refuses, or the connection breaks.
        """
        try:
            path = f"/v2/backups/{backup}/dump"
            with self._http.stream("GET", path, auth=self._download_auth) as answer:
                if not answer.is_success:
                    answer.read()
                    raise CommandError(_reason(answer))
                yield answer.iter_bytes()
        except httpx.TransportError:
            raise UnreachableError("The connection to the API has broken. Fetch the backup again.") from None

    def instances(self, **filters: str | int | list[str]) -> Iterator[Json]:
        """All instances, deleted ones as well, that match `filters`."""
        return self._pages("/v2/dbInstances", **filters)

    def _pages(self, path: str, **filters: str | int | list[str]) -> Iterator[Json]:
        """Everything that is listed at the path from the first page to the last, once each.

        What stops matching moves all that follows it to the front, past the beginning of the next page. So
        each page begins with the last one of the page before. If it does not, an earlier page is asked for.
        """
        _require_given(filters)
        seen: set[Any] = set()
        offset = 0
        while True:
            parameters = {"offset": offset, "limit": _PAGE, **filters}
            page: list[Json] = self._request("GET", path, params=parameters).json()
            if offset > 0 and (not page or page[0]["id"] not in seen):
                offset = max(0, offset - _PAGE // 2)
                continue
            for row in page:
                if row["id"] not in seen:
                    seen.add(row["id"])
                    yield row
            if len(page) < _PAGE:
                return
            offset += _PAGE - 1

    def job(self, job: str) -> Json:
        """A job."""
        return self._object("GET", f"/v2/jobs/{job}")

    def jobs(self, limit: int, **filters: Sequence[str] | int | None) -> list[Json]:
        """The newest jobs that match `filters`, the newest first; None and an empty list stand for all."""
        given = {name: value for name, value in filters.items() if value not in (None, [])}
        _require_given(given)
        listed: list[Json] = self._request("GET", "/v2/jobs", params={"limit": limit, **given}).json()
        return listed

    def cancel(self, job: str) -> Json:
        """Request that a job is cancelled; returns the job as it is then."""
        return self._object("POST", f"/v2/jobs/{job}/cancel")

    def abandon(self, job: str) -> Json:
        """Have the workflow of a failed job wait for no retry any longer; returns the job."""
        return self._object("POST", f"/v2/jobs/{job}/abandon")

    def sweep(self) -> None:
        """Request a sweep, which starts every pending job."""
        self._request("POST", "/v2/sweep")

    def refresh(self, ods_instance: int | None) -> Json:
        """Request a refresh of the education organizations, of one ODS instance or of all."""
        which = "" if ods_instance is None else f"/{ods_instance}"
        return self._object("POST", f"/v2/odsInstances{which}/edOrgs/refresh")

    def drift(self) -> list[Json]:
        """Where registry and server contradict each other."""
        found: list[Json] = self._request("GET", "/v2/drift").json()
        return found

    def recovery_plan(self, chosen: Sequence[str]) -> Json:
        """What a recovery would do, with these databases chosen."""
        plan: Json = self._request("GET", "/v2/recovery", params={"choose": list(chosen)}).json()
        return plan

    def recover(self, chosen: Sequence[str], *, confirm: bool, accept_store: bool) -> Json:
        """Bring the registry in step with the server, as far as there is time for in one request."""
        words = {"choose": list(chosen), "confirm": confirm, "acceptStore": accept_store}
        return self._object("POST", "/v2/recovery", json=words)

    def renew_installation(self) -> Json:
        """Make the registry, a copy, an installation of its own."""
        return self._object("POST", "/v2/recovery", json={"asNewInstallation": True})

    def take_installation_over(self, installation: str) -> Json:
        """Have the registry, which is new, go on as that installation, whose registry is lost."""
        return self._object("POST", "/v2/recovery", json={"asInstallation": installation})

    def spares(self) -> Json:
        """The spare databases of each template."""
        return self._object("GET", "/v2/spares")

    def templates(self) -> list[Json]:
        """The templates that instances are made of."""
        found: list[Json] = self._request("GET", "/v2/templates").json()
        return found

    def refill(self) -> None:
        """Request that spares are refilled."""
        self._request("POST", "/v2/spares/refill")

    def wait_for_spares(self) -> Json:
        """Wait until no spare is missing; returns the spares.

        Raises:
            CommandError: some are still missing after ten minutes.
        """
        started = monotonic()
        while monotonic() - started < _REFILL_SECONDS:
            if _are_complete(found := self.spares()):
                return found
            sleep(_POLL_SECONDS)
        raise CommandError("Spares are still missing; the workflow spare-refill in the Web UI may say why.")

    def audit(self, limit: int) -> list[Json]:
        """The newest entries of the audit trail, the newest first."""
        entries: list[Json] = self._request("GET", "/v2/audit", params={"limit": limit}).json()
        return entries

    def wait_for(self, job: str) -> Json:
        """Wait until `job` has finished.

        Raises:
            CommandError: it ended in `Error`, or the API has not answered for half a minute.
        """
        return completed(self.wait_for_end(job))

    def wait_for_end(self, job: str, watch: Callable[[Json], object] = lambda _: None) -> Json:
        """Wait until `job` has finished or failed, calling `watch` with it after each poll; returns it then.

        Raises:
            CommandError: the API has not answered for half a minute.
        """
        answered = monotonic()
        while True:
            try:
                state = self.job(job)
                if state["status"] in _FINISHED:
                    return state
                watch(state)
                answered = monotonic()
            except UnreachableError:
                if monotonic() - answered > _OUTAGE_SECONDS:
                    raise
            sleep(_POLL_SECONDS)

    def wait_for_job(self, job: str, instance: int) -> None:
        """Wait until there is a `job` of the instance, which follows another one that is done.

        Raises:
            CommandError: there is none after ten minutes.
        """
        ends = monotonic() + _FOLLOWING_SECONDS
        while all(known["jobId"] != job for known in self.jobs(_LAST_JOBS, instanceId=instance)):
            if monotonic() > ends:
                raise CommandError(f"The job {job} was not requested; `ods trash` shows what there is.")
            sleep(_POLL_SECONDS)

    def _object(self, method: str, path: str, json: Json | None = None) -> Json:
        answer: Json = self._request(method, path, json=json).json()
        return answer

    def _when_free(self, method: str, path: str, **content: Any) -> httpx.Response:  # noqa: ANN401 - httpx's own
        """The answer to a request with a key; waits while an earlier one with the key is under way."""
        ends = monotonic() + _BUSY_SECONDS
        while True:
            try:
                return self._request(method, path, **content)
            except RefusalError as refusal:
                if refusal.retry_after is None or monotonic() > ends:
                    raise
                sleep(refusal.retry_after)

    def _request(self, method: str, path: str, **content: Any) -> httpx.Response:  # noqa: ANN401 - httpx's own
        try:
            answer = self._http.request(method, path, **content)
        except httpx.TransportError:
            raise UnreachableError(
                f"No API answers at {self._url}; start the stack with `ods up`, or name another API"
                " with --api-url or ODS_API_URL."
            ) from None
        if not answer.is_success:
            raise _refusal(answer)
        return answer


class _Bearer(httpx.Auth):
    """Authenticates requests with a bearer token; gets a new one if there is none, or it is refused.

    It asks for each of the `scopes` in turn, until the client may have one.
    """

    requires_response_body = True

    def __init__(
        self,
        token_url: str,
        client_id: str,
        client_secret: str,
        headers: Mapping[str, str],
        scopes: Sequence[str],
    ) -> None:
        self._token_url = token_url
        self._scopes = scopes
        self._headers = headers
        self._form = {
            "grant_type": "client_credentials",
            "client_id": client_id,
            "client_secret": client_secret,
        }
        self._token: str | None = None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
            answer = yield request
            if answer.status_code != HTTPStatus.UNAUTHORIZED:
                return
        for scope in self._scopes:
            answer = yield from self._token_request(scope)
            if b"invalid_scope" not in answer.content:
                break
        else:
            raise CommandError(
                f"The client {self._form['client_id']} may have none of these scopes:"
                f" {', '.join(self._scopes)}. Its operator says what it may do (`ods client change`)."
            )
        refused = answer.status_code in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED)
        if refused and b'"Tenant"' not in answer.content:
            raise CommandError(
                f"The API does not accept the client {self._form['client_id']} with this secret;"
                " check ODS_CLIENT_ID and ODS_CLIENT_SECRET."
            )
        if not answer.is_success:
            raise CommandError(_reason(answer))
        self._token = answer.json()["access_token"]
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request

    def _token_request(self, scope: str) -> Generator[httpx.Request, httpx.Response, httpx.Response]:
        """Request a token; again after the time that the API names, if too many were requested."""
        ends = monotonic() + _LIMITED_SECONDS
        while True:
            form = self._form | {"scope": scope}
            answer = yield httpx.Request("POST", self._token_url, data=form, headers=self._headers)
            pause = answer.headers.get("Retry-After", "")
            if answer.status_code != HTTPStatus.TOO_MANY_REQUESTS or not pause.isdecimal():
                return answer
            if monotonic() + int(pause) > ends:
                return answer
            sleep(int(pause))


def _require_given(filters: Mapping[str, object]) -> None:
    """Refuse an empty filter, which the API takes for none: what is done to those listed, is done to all.

    Raises:
        CommandError: one is empty.
    """
    for name, value in filters.items():
        if value == "" or (isinstance(value, list) and "" in value):
            raise CommandError(
                f"The {name} that is asked for is empty: all would match. Is a variable not set?"
            )


def _are_complete(spares: Json) -> bool:
    templates = spares["templates"]
    return not spares["unfinished"] and all(
        it["ready"] == it["wanted"] and not it["stale"] for it in templates
    )


def _refusal(answer: httpx.Response) -> RefusalError:
    pause = answer.headers.get("Retry-After", "")
    is_busy = answer.status_code == HTTPStatus.CONFLICT and pause.isdecimal()
    return RefusalError(_reason(answer), _members(answer).get("errors", {}), int(pause) if is_busy else None)


def _members(answer: httpx.Response) -> Json:
    """The members of the object that the API answers; none, if the answer is not the API's."""
    with suppress(ValueError):
        members = answer.json()
        if isinstance(members, dict):
            return members
    return {}


def _reason(answer: httpx.Response) -> str:
    """The reason of a refusal, in one line."""
    if reason := reason_of(_members(answer)):
        return reason
    if answer.status_code == HTTPStatus.FORBIDDEN:
        return "The API answered 403 Forbidden: the client may not do this, such as one that may only read."
    return f"The API answered {answer.status_code} {answer.reason_phrase}."


def reason_of(problem: Json) -> str:
    """What the members of a problem say, in one line; empty if they say nothing."""
    faults = [fault for faults in problem.get("errors", {}).values() for fault in faults]
    sentences = faults or [problem[key] for key in ("title", "detail", "nextStep") if problem.get(key)]
    return " ".join(
        sentence if sentence.endswith((".", "!", "?")) else f"{sentence}." for sentence in sentences
    )
