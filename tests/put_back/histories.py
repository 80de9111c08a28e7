"""The histories of the matrix: an operation, where its worker died, what came later, what is put back."""

import asyncio
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.chaos.evidence import connected, databases_of, decrypted, open_workflows
from tests.preloaded import Process
from tests.put_back.judgement import Case, Told, Verdict, judge
from tests.put_back.operations import OPERATIONS, Operation
from tests.put_back.scene import Facts, Held, Requested, Scene, read_server, routes, scene_at
from tests.put_back.site import PARTS, PASSES, REGISTRY, SERVER, STORE, TEMPORAL, Site, removed
from tests.put_back.stopping_worker import STOPPED

DONE = "done"
"""The boundary after the last step of a job."""
_DEATH_SECONDS = 90
_QUIET_SECONDS = 120
_IDLE_SECONDS = 60
_HANGS_SECONDS = 12
"""How long a job may neither do anything nor say what it waits for."""
_PASSES_AT_MOST = 6
_POLL_SECONDS = 0.1
_ENDED = ("Completed", "Error")
_READERS = "SELECT odsinstance_odsinstanceid, connectionstring FROM dbo.odsinstancederivatives"
_CHANGING = ("progress", "lastRefreshed", "lastModifiedDate", "links", "waiting", "percent", "etaSeconds")


class Later(StrEnum):
    """What happened between the boundary and the moment at which something was put back."""

    NOTHING = "nothing"
    DONE = "done"
    """The job was done by another worker, and clients wrote rows."""
    NEXT = "next"
    """The same, then the opposite or next operation was done, and clients wrote rows."""
    NAME = "name"
    """The job was done, another instance got the name that had become free, and clients wrote rows."""


class PutBack(StrEnum):
    """What was put back, and to when: to before the request, or to the boundary."""

    NOTHING = "nothing"
    REGISTRY_TO_REQUEST = "registry to request"
    SERVER_TO_REQUEST = "server to request"
    BOTH_TO_REQUEST = "both to request"
    REGISTRY_TO_BOUNDARY = "registry to boundary"
    SERVER_TO_BOUNDARY = "server to boundary"
    BOTH_TO_BOUNDARY = "both to boundary"

    @property
    def parts(self) -> Sequence[str]:
        """What is put back."""
        what = self.partition(" ")[0]
        return {"nothing": (), "both": (REGISTRY, SERVER)}.get(what, (what,))

    @property
    def is_to_boundary(self) -> bool:
        """Whether it is put back to the boundary."""
        return self.endswith("boundary")


@dataclass(frozen=True)
class Story:
    """What happens until something is put back.

    Attributes:
        operation: one of `OPERATIONS`.
        boundary: when the worker dies, `before 2` or `after 2`, or `DONE`.
        later: what happens then.
    """

    operation: str
    boundary: str
    later: Later

    @property
    def put_backs(self) -> Sequence[PutBack]:
        """What can be put back after it; where nothing happened later, the boundary is now."""
        if self.later is Later.NOTHING:
            return [it for it in PutBack if not it.is_to_boundary]
        return list(PutBack)

    def __str__(self) -> str:
        return f"{self.operation} | {self.boundary} | {self.later}"


def stories(operation: str, steps: int) -> Iterator[Story]:
    """Every story of an operation whose job has so many steps."""
    moments = [f"{when} {number}" for number in range(1, steps + 1) for when in ("before", "after")]
    offered = OPERATIONS[operation]
    laters = [Later.NOTHING, Later.DONE]
    laters += [Later.NEXT] if offered.following else []
    laters += [Later.NAME] if offered.frees_name else []
    for boundary in [*moments, DONE]:
        for later in laters:
            yield Story(operation, boundary, later)


class NoSuchBoundaryError(Exception):
    """The worker was done without having died: the job has fewer steps."""


@dataclass(frozen=True)
class World:
    """A site as it was at a moment: the folder with copies of its parts, and what its clients knew."""

    folder: Path
    facts: Facts

    def places(self, *parts: str) -> dict[str, Path]:
        """The copies of these parts."""
        return {part: self.folder / part for part in parts}


@dataclass(frozen=True)
class Played:
    """A story that was played: the site before the request, at the boundary, and at the end."""

    request: World
    boundary: World
    end: World

    def world(self, part: str, put_back: PutBack) -> World:
        """The one whose copy of a part is used."""
        if part not in put_back.parts:
            return self.end
        return self.boundary if put_back.is_to_boundary else self.request


class Player:
    """Plays stories on a site, and tells what becomes of each put-back.

    Args:
        site: the site, which has begun to serve.
        confirms: whether the operator confirms a registry that was put back, as the pages say.
    """

    def __init__(self, site: Site, *, confirms: bool = True) -> None:
        self._site = site
        self._confirms = confirms
        self._worlds: dict[tuple[str, ...], World] = {}
        self._held: dict[Path, Held] = {}
        self._numbers = itertools.count(1)

    async def count_steps(self, operation: str) -> int:
        """How many steps the job of an operation has."""
        if not OPERATIONS[operation].has_job:
            return 0
        await self._begin(OPERATIONS[operation])
        facts = self._worlds[OPERATIONS[operation].prepared].facts.copy()
        async with scene_at(self._site, facts) as scene:
            await self._do(scene, operation)
        return len(self._site.steps.read_text().splitlines())

    async def play(self, story: Story) -> Played:
        """Play a story, and keep what is needed of it; `forget` removes that.

        Raises:
            NoSuchBoundaryError: the job has fewer steps.
            RefusedError: a request was refused.
        """
        operation = OPERATIONS[story.operation]
        before = await self._begin(operation)
        async with scene_at(self._site, before.facts.copy()) as scene:
            requested = await self._to_boundary(scene, story)
            await scene.note_owners()
            boundary = await self._saved(scene.facts, REGISTRY, SERVER)
            await self._go_on(scene, story, requested)
            await scene.note_owners()
            await self._site.stop_api()
            end = await self._saved(scene.facts, *PARTS)
        return Played(before, boundary, end)

    async def forget(self, played: Played) -> None:
        """Remove the copies of a story."""
        for world in (played.boundary, played.end):
            self._held.pop(world.folder / SERVER, None)
            await removed(world.folder)

    async def put_back(self, played: Played, put_back: PutBack) -> Verdict:
        """Put back, start API and a worker, wait until nothing changes any more, and judge."""
        server, registry = played.world(SERVER, put_back), played.world(REGISTRY, put_back)
        before = await self._held_by(server)
        others = played.end.places(TEMPORAL, STORE)
        await self._site.load(registry.places(REGISTRY) | server.places(SERVER) | others)
        routes_before = _names(await routes(self._site.target))
        if REGISTRY in put_back.parts and self._confirms:
            await self._site.confirm(accepts_store=any((self._site.folder / STORE).iterdir()))
        await self._site.serve()
        async with scene_at(self._site, played.end.facts) as scene:
            worker = await self._become_quiet(scene)
            told = await self._told(scene)
        await self._site.stop(worker)
        after = await read_server(self._site.target)
        facts = played.end.facts
        return judge(Case(facts, server.facts.owners, before, routes_before, after, told))

    async def _begin(self, operation: Operation) -> World:
        """Have the site and its API serve as they are before the request."""
        world = await self._prepared(operation.prepared)
        await self._site.load(world.places(*PARTS))
        await self._site.serve()
        return world

    async def _prepared(self, steps: tuple[str, ...]) -> World:
        """The site after these steps, each with rows written after it; made once."""
        if steps in self._worlds:
            return self._worlds[steps]
        if not steps:
            await self._site.stop_api()
            self._worlds[steps] = await self._saved(Facts(), *PARTS)
            return self._worlds[steps]
        earlier = await self._prepared(steps[:-1])
        await self._site.load(earlier.places(*PARTS))
        await self._site.serve()
        async with scene_at(self._site, earlier.facts.copy()) as scene:
            await self._do(scene, steps[-1])
            await scene.write()
            await self._site.stop_api()
            self._worlds[steps] = await self._saved(scene.facts, *PARTS)
        return self._worlds[steps]

    async def _to_boundary(self, scene: Scene, story: Story) -> Requested:
        if story.boundary == DONE:
            return await self._do(scene, story.operation)
        requested = await scene.request(story.operation)
        worker = await self._site.start_worker(story.boundary, has_passes=False)
        try:
            async with asyncio.timeout(_DEATH_SECONDS):
                code = await worker.wait()
        except TimeoutError:
            raise NoSuchBoundaryError(str(story)) from None
        finally:
            await self._site.stop(worker)
        assert code == STOPPED, f"{story}: the worker has ended with {code}"
        return requested

    async def _go_on(self, scene: Scene, story: Story, requested: Requested) -> None:
        if story.later is Later.NOTHING:
            return
        operation = OPERATIONS[story.operation]
        if story.boundary != DONE:
            await self._bring_to_end(scene, requested)
        await scene.write()
        match story.later:
            case Later.NEXT:
                assert operation.following is not None
                await self._do(scene, operation.following)
                await scene.write()
            case Later.NAME:
                await self._do(scene, "take name")
                await scene.write()

    async def _do(self, scene: Scene, step: str) -> Requested:
        """Request a step, and have a worker do it.

        Raises:
            RefusedError: it was refused.
            TimeoutError: it has not ended within a minute.
        """
        requested = await scene.request(step)
        await self._bring_to_end(scene, requested)
        return requested

    async def _bring_to_end(self, scene: Scene, requested: Requested) -> None:
        if not requested.jobs:
            return
        worker = await self._site.start_worker(has_passes=False)
        await scene.ended(requested)
        end = asyncio.get_running_loop().time() + _IDLE_SECONDS
        await self._idle(end, scene, has_passes=False)
        await self._site.stop(worker)

    async def _saved(self, facts: Facts, *parts: str) -> World:
        world = World(self._site.folder / "worlds" / str(next(self._numbers)), facts.copy())
        await self._site.save(world.folder, parts)
        return world

    async def _held_by(self, world: World) -> Held:
        """What the copy of the server holds. It is read on a copy of that: what is read is opened for it."""
        place = world.folder / SERVER
        if place not in self._held:
            await self._site.halt()
            await self._site.server.put_back(place)
            await self._site.server.start()
            self._held[place] = await read_server(self._site.target)
        return self._held[place]

    async def _become_quiet(self, scene: Scene) -> Process:
        """Start a worker, and have passes come by until they change nothing more, or it takes too long."""
        end = asyncio.get_running_loop().time() + _QUIET_SECONDS
        passes, seen = await self._site.passes(), await self._fingerprint(scene)
        worker = await self._site.start_worker()  # which has each pass come by once
        while (now := await self._site.passes()) < passes + len(PASSES):
            assert asyncio.get_running_loop().time() < end, f"{now} passes, {passes} before"
            await asyncio.sleep(_POLL_SECONDS)
        for _ in range(_PASSES_AT_MOST):
            await self._idle(end, scene)
            found = await self._fingerprint(scene)
            if found == seen or asyncio.get_running_loop().time() > end:
                break
            seen = found
            await self._site.pass_by()
        return worker

    async def _idle(self, end: float, scene: Scene, *, has_passes: bool = True) -> None:
        """Wait until no workflow does something, and each job has ended or says what it waits for.

        Args:
            end: until when, by the clock of the loop.
            scene: asks for the jobs.
            has_passes: whether passes are waited for as well.
        """
        loop = asyncio.get_running_loop()
        temporal = await self._site.temporal()
        idle_since: float | None = None
        while loop.time() < end:
            at_work = [it.id for it in await open_workflows(temporal) if it.doing]
            if any(has_passes or not self._site.is_pass(workflow) for workflow in at_work):
                idle_since = None
            else:
                idle_since = idle_since or loop.time()
                jobs = await scene.listed("/v2/jobs?limit=100")
                if all(job["status"] in _ENDED or job["waiting"] for job in jobs):
                    return
                if loop.time() - idle_since > _HANGS_SECONDS:
                    return
            await asyncio.sleep(_POLL_SECONDS)

    async def _fingerprint(self, scene: Scene) -> str:
        """What would be different if something had changed."""
        lists = [await scene.listed(path) for path in ("/v2/dbInstances", "/v2/jobs", "/v2/trash")]
        told = [
            {key: value for key, value in one.items() if key not in _CHANGING} for it in lists for one in it
        ]
        databases = [(it.oid, it.name, it.open, it.comment) for it in await databases_of(self._site.target)]
        return json.dumps([told, databases, _names(await routes(self._site.target))])

    async def _told(self, scene: Scene) -> Told:
        target = self._site.target
        async with connected(target.admin_dsn) as registry:
            strings = [(row[0], row[1]) for row in await registry.fetch(_READERS) if row[1]]
        return Told(
            instances=await scene.listed("/v2/dbInstances?limit=100"),
            jobs=await scene.listed("/v2/jobs?limit=100"),
            trash=await scene.listed("/v2/trash?limit=100"),
            routes=_names(await routes(target)),
            readers=_names({one: decrypted(text, target.encryption_key) for one, text in strings}),
            findings=await scene.listed("/v2/drift"),
        )


def _names(pairs: Mapping[int, Mapping[str, str]]) -> dict[int, str]:
    return {number: one["database"] for number, one in pairs.items()}
