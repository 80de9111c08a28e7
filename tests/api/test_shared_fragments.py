"""Fragments of the console that are made once for all open pages have nothing of a session."""

import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx
import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts

from ods.console.app import router
from ods.console.live.fragments import FragmentsOfRequest
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from ods.settings.settings import DEFAULT_TENANT
from tests.postgres.instance_states import bring_to
from tests.secret_search import as_secret

SECRET = as_secret("A-secret-of-32-characters-or-more-1!")


@dataclass(frozen=True)
class Operator:
    """A client that is signed in, in a browser of its own."""

    name: str
    browser: httpx.AsyncClient
    token: str

    @property
    def own(self) -> set[str]:
        """What only the pages of this operator may have."""
        (cookie,) = self.browser.cookies.values()
        session_id = cookie.partition(".")[2]
        digest = hashlib.sha256(session_id.encode()).hexdigest()
        return {self.name, session_id, digest, self.token, self.token.partition(".")[2]}

    async def fragment(self, address: str) -> httpx.Response:
        answer = await self.browser.get(address, headers={"HX-Request": "true", "Console-Live": "1"})
        assert answer.status_code == 200, f"{address}\n{answer.text}"
        return answer


async def sign_in(app: FastAPI, name: str, stack: AsyncExitStack) -> Operator:
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080")
    browser = await stack.enter_async_context(client)
    form = {"ClientId": name, "ClientSecret": SECRET, "DisplayName": name}
    assert (await browser.post("/connect/register", data=form)).is_success
    typed = {"csrf": csrf_of(await browser.get("/console/sign-in")), "client_id": name}
    signed_in = await browser.post("/console/sign-in", data={**typed, "client_secret": SECRET})
    assert signed_in.status_code == 303
    browser.cookies = httpx.Cookies(
        {name: value for name, value in browser.cookies.items() if value.startswith(f"{DEFAULT_TENANT}.")}
    )
    return Operator(name, browser, csrf_of(await browser.get("/console/jobs")))


def csrf_of(page: httpx.Response) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert found
    return found[1]


@pytest.fixture
async def operators(app: FastAPI) -> AsyncIterator[tuple[Operator, Operator]]:
    async with AsyncExitStack() as stack:
        yield await sign_in(app, "first-operator", stack), await sign_in(app, "second-operator", stack)


def shared_paths() -> Iterator[str]:
    """The paths of all endpoints that share what they answer."""
    for context in iter_route_contexts(router.routes):
        route = context.original_route
        if isinstance(route, APIRoute) and _shares(route.dependant):
            yield str(context.path)


def _shares(dependant: Dependant) -> bool:
    return dependant.call is FragmentsOfRequest or any(map(_shares, dependant.dependencies))


async def test_fragments_are_the_same_and_have_nothing_of_a_session_when_two_operators_are_signed_in(
    app: FastAPI, operators: tuple[Operator, Operator], instances: InstanceStore, job_store: JobStore
) -> None:
    first, second = operators
    await bring_to(instances, job_store, "Error", "Northridge")
    await bring_to(instances, job_store, "Deleted", "Ridge")
    job = await bring_to(instances, job_store, "Completed", "Grand Bend")
    # A path that asks for something else fails here: it needs an example.
    examples = {"instance_id": job.instance_id, "job_id": job.job_id}
    addresses = [path.format(**examples) for path in shared_paths()]
    assert len(addresses) >= 12
    own = first.own | second.own
    await first.fragment(addresses[0])
    feed = app.state.console_fragments[DEFAULT_TENANT].feed
    seen = ""
    async with feed.page() as told:
        await told.get()
        for address in addresses:
            made, again = await first.fragment(address), await second.fragment(address)
            assert feed.is_current
            assert made.content == again.content
            assert not {text for text in own if text in made.text or text in str(made.headers)}, address
            seen += made.text
    for verb in ("backup", "snapshot", "refresh", "retry"):
        assert re.search(rf'<button form="act" formaction="[^"]*/{verb}"', seen), verb
