"""Clients that create, change, rename, delete, undelete, purge, retry and poll: all at once, whatever dies.

To add an operation: a method of `Service` that requests it, a method here that chooses an instance for it,
and a line in the table of actions with how often it is done.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tests.chaos.evidence import BROKEN, Contents, connected
from tests.chaos.violations import BACKED_UP
from tests.chaos.workload import Json, Service, drop_unmarked, insist

_OBSTACLE_SECONDS = 60
_WAYS_TO_DELETE = {"Trash": 6, "Drop": 2, BACKED_UP: 2, "Detach": 1}
_MARK = "SELECT mark::text FROM adminapi.dbinstances WHERE id = $1"
_END_TIME = (
    "UPDATE adminapi.databases SET purgeafter = timezone('utc', now()) - interval '1 day'"
    " WHERE instanceid = $1 AND reason = 'deleted'"
)


@dataclass(frozen=True)
class Surroundings:
    """What customers share.

    Attributes:
        contested: names that every client may post.
        occupied: names whose database exists already, and is no instance's.
        server_dsn: a superuser's address of the server, to put obstacles into the way.
        registry_dsn: a superuser's address of the registry, to let time pass.
    """

    contested: Sequence[str]
    occupied: Sequence[str]
    server_dsn: str
    registry_dsn: str


class Customer:
    """One client, with instances of its own and an eye on names that others want as well.

    Args:
        number: tells it from the others.
        service: the API.
        rng: decides what it does.
        surroundings: what it shares with the others.
    """

    def __init__(self, number: int, service: Service, rng: random.Random, surroundings: Surroundings) -> None:
        self._number = number
        self._service = service
        self._rng = rng
        self._surroundings = surroundings
        self._names = 0
        self._instances: dict[int, str] = {}
        self._trash: dict[int, str] = {}
        self._together: list[dict[int, str]] = []
        self._backups: list[str] = []
        self._jobs: list[str] = []
        self._actions: dict[Callable[[], Awaitable[str]], int] = {
            self._create: 36,
            self._delete: 24,
            self._rename: 9,
            self._rename_obstructed: 2,
            self._create_contested: 9,
            self._create_twice: 6,
            self._create_together: 6,
            self._delete_together: 5,
            self._create_taken: 5,
            self._create_obstructed: 3,
            self._retry: 5,
            self._poll: 8,
            self._sweep: 2,
            self._undelete: 12,
            self._purge: 5,
            self._let_time_pass: 3,
            self._label: 6,
            self._protect: 6,
            self._back_up: 8,
            self._restore: 4,
            self._copy: 6,
            self._verify_backup: 2,
            self._delete_backup: 1,
            self._snapshot: 6,
            self._reset: 6,
            self._reset_to_copy: 5,
            self._reset_to_backup: 4,
            self._undo_reset: 4,
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
        for known in (self._instances, self._trash, *self._together):
            for gone in removed & set(known.items()):
                del known[gone[0]]

    def _new_name(self) -> str:
        self._names += 1
        return f"Client {self._number} {self._names}"

    def _template(self) -> str:
        return self._rng.choice(("Minimal", "Minimal", "Sample"))

    def _any(self) -> int:
        return self._rng.choice(list(self._instances))

    def _any_own(self) -> int | None:
        """An instance that no other client works with."""
        own = [it for it, name in self._instances.items() if name.startswith(f"Client {self._number} ")]
        return self._rng.choice(own) if own else None

    def _heard(self, accepted: Json | None) -> str:
        """Note the job of an answer; what became of the request, in a word."""
        if accepted is None:
            return "refused"
        self._jobs.append(accepted["jobId"])
        return "accepted"

    async def _request(self, name: str, template: str) -> str:
        accepted = await self._service.create(name, template)
        found = accepted["id"] if accepted else await self._service.live(name)
        if found is not None:
            self._instances[found] = name
        return self._heard(accepted)

    async def _create(self) -> str:
        return await self._request(self._new_name(), self._template())

    async def _create_contested(self) -> str:
        return await self._request(self._rng.choice(self._surroundings.contested), "Minimal")

    async def _create_taken(self) -> str:
        return await self._request(self._rng.choice(self._surroundings.occupied), "Minimal")

    async def _create_twice(self) -> str:
        name, template = self._new_name(), self._template()
        before, restores = len(self._service.ledger.requests), self._service.ledger.history.restores
        answers = await asyncio.gather(self._request(name, template), self._request(name, template))
        doubts = [it for it in self._service.ledger.requests[before:] if it.name == name and it.job is None]
        restored = self._service.ledger.history.restores > restores
        if answers.count("accepted") != 1 and not doubts and not restored:
            self._service.ledger.oddities.append(f"two requests for '{name}' were {answers}")
        return "accepted" if "accepted" in answers else "refused"

    async def _create_together(self) -> str:
        """Several instances at once: from templates, as copies, or in vain because a name is taken."""
        fresh = [self._new_name() for _ in range(self._rng.randint(2, 4))]
        entries = [self._entry(name) for name in fresh]
        if self._rng.random() < 0.2:
            in_use = self._rng.choice((*self._surroundings.contested, *self._surroundings.occupied))
            entries.append({"name": in_use, "databaseTemplate": "Minimal"})
        held = await self._held_by_sources(entries)
        accepted = await self._service.create_together(entries, fresh)
        there = {entry["name"]: await self._service.live(entry["name"]) for entry in entries}
        for name, contents in held.items():
            if (found := there[name]) is not None:
                self._service.ledger.history.origins[await self._mark(found)] = contents
        group = {found: name for name, found in there.items() if found is not None and name in fresh}
        if self._rng.random() < 0.5:
            self._instances |= group
        elif group:
            self._together.append(group)
        return self._all_heard(accepted)

    async def _held_by_sources(self, entries: Sequence[Json]) -> dict[str, Contents]:
        """What the instances hold that are to be copied, by the names of the copies."""
        history = self._service.ledger.history
        copies = [entry for entry in entries if "copyOf" in entry]
        return {entry["name"]: history.holds(await self._mark(entry["copyOf"])) for entry in copies}

    def _entry(self, name: str) -> Json:
        """What a request for several instances says of one of them."""
        if self._instances and self._rng.random() < 0.3:
            return {"name": name, "copyOf": self._any(), "mode": self._rng.choice(("online", "closed"))}
        return {"name": name, "databaseTemplate": self._template()}

    async def _delete_together(self) -> str:
        """Instances that were created together, perhaps in vain because one of them is being copied."""
        groups = [group for group in self._together if group]
        if not groups:
            return await self._create_together()
        group = self._rng.choice(groups)
        if self._rng.random() < 0.3:
            await self._copied(self._rng.choice(list(group)))
        elif self._jobs:
            await self._ended(self._jobs[-1])
        accepted = await self._service.delete_together(group)
        if accepted is not None:
            self._together.remove(group)
            self._trash |= group
        return self._all_heard(accepted)

    def _all_heard(self, accepted: Sequence[Json] | None) -> str:
        """Note the jobs of an answer; what became of the request, in a word."""
        if accepted is None:
            return "refused"
        for one in accepted:
            self._heard(one)
        return "accepted"

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
        server = self._surroundings.server_dsn
        await insist(server, f'CREATE DATABASE "{database}"')
        try:
            answer = await request()
            if answer == "accepted":
                await self._ended(self._jobs[-1])
        finally:
            await drop_unmarked(server, database)
        return answer

    async def _rename(self) -> str:
        instance = self._any()
        return await self._renamed(instance, self._name_after(self._instances[instance]))

    async def _rename_obstructed(self) -> str:
        """A rename that fails, of an instance that must go on; some are retried, others are left so."""
        instance = self._any()
        name = self._name_after(self._instances[instance])
        answer = await self._obstructed(name, lambda: self._renamed(instance, name))
        if self._rng.random() < 0.5:
            await self._service.retry(instance, self._instances[instance])
        return answer

    def _name_after(self, name: str) -> str:
        """Another name for an instance, which tells its first."""
        self._names += 1
        return f"{name} r{self._names}"

    async def _renamed(self, instance: int, new_name: str) -> str:
        return self._heard(await self._service.rename(instance, self._instances[instance], new_name))

    async def _ended(self, job: str) -> None:
        """Give a job the time to end: an obstructed one must find out."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_OBSTACLE_SECONDS):
                await self._service.ended(job)

    async def _delete(self) -> str:
        (way,) = self._rng.choices(list(_WAYS_TO_DELETE), list(_WAYS_TO_DELETE.values()))
        instance = self._any_own() if way == "Detach" else self._any()
        if instance is None:
            return "nothing to detach"
        return f"{way}: {await self._deleted(instance, way)}"

    async def _deleted(self, instance: int, way: str) -> str:
        name = self._instances[instance]
        told = self._service.ledger.attributes.get((instance, name))
        answer = self._heard(await self._service.delete(instance, name, way))
        if answer == "accepted":
            del self._instances[instance]
            # A protected one stays where it is, for the checker to find.
            if way == "Trash" and not (told and told.protected):
                self._trash[instance] = name
        return answer

    async def _any_in_trash(self) -> int | None:
        """An instance in the trash, which is put there if none is; None if that is refused."""
        if not self._trash and await self._deleted(self._any(), "Trash") == "accepted":
            await self._ended(self._jobs[-1])
        return self._rng.choice(list(self._trash)) if self._trash else None

    async def _undelete(self) -> str:
        """Bring an instance back, perhaps so soon that its delete is not done yet."""
        instance = await self._any_in_trash()
        if instance is None:
            return "nothing to undelete"
        name = self._trash[instance]
        new_name = self._name_after(name) if self._rng.random() < 0.3 else None
        # A pass that purges it after that is wrong, also if its time was over.
        due = self._service.ledger.history.due & {await self._mark(instance)}
        answer = self._heard(await self._service.undelete(instance, name, new_name))
        if answer == "accepted":
            self._service.ledger.history.due -= due
            self._instances[instance] = self._trash.pop(instance)
        return answer

    async def _purge(self) -> str:
        instance = await self._any_in_trash()
        if instance is None:
            return "nothing to purge"
        name = self._trash[instance]
        is_backed_up = self._rng.random() < 0.6
        if self._rng.random() < 0.5:
            accepted = await self._service.purge(instance, name, final_backup=is_backed_up)
        else:
            way = BACKED_UP if is_backed_up else "Drop"
            accepted = await self._service.delete(instance, name, way)
        answer = self._heard(accepted)
        if answer == "accepted":
            del self._trash[instance]
        return answer

    async def _let_time_pass(self) -> str:
        """End the time of an instance in the trash: the next pass purges it."""
        instance = await self._any_in_trash()
        if instance is None:
            return "nothing to wait for"
        self._service.ledger.history.due.add(await self._mark(instance))
        await insist(self._surroundings.registry_dsn, _END_TIME.replace("$1", str(instance)))
        return "done"

    async def _mark(self, instance: int) -> str:
        """The mark of an instance; empty if a restore has removed it."""
        while True:
            with suppress(*BROKEN):
                async with connected(self._surroundings.registry_dsn) as registry:
                    return await registry.fetchval(_MARK, instance) or ""
            await asyncio.sleep(0.1)

    async def _label(self) -> str:
        instance = self._any_own()
        if instance is None:
            return "nothing to label"
        self._names += 1
        text = f"{self._number}-{self._names}"
        contexts = [{"contextKey": "storm", "contextValue": text}] if self._rng.random() < 0.5 else []
        return await self._changed(instance, {"labels": {"storm": text}, "contexts": contexts})

    async def _protect(self) -> str:
        """Protect an instance and try to delete it; some stay protected."""
        instance = self._any_own()
        if instance is None:
            return "nothing to protect"
        answer = await self._changed(instance, {"protected": True})
        if answer == "accepted":
            await self._deleted(instance, self._rng.choice(list(_WAYS_TO_DELETE)))
            if instance in self._instances and self._rng.random() < 0.7:
                await self._changed(instance, {"protected": False})
        return answer

    async def _back_up(self) -> str:
        instance = self._any()
        history = self._service.ledger.history
        held = history.holds(await self._mark(instance))
        accepted = await self._service.back_up(instance, self._instances[instance])
        if accepted is not None:
            history.backups[accepted["backupId"]] = held
            self._backups.append(accepted["backupId"])
        return self._heard(accepted)

    async def _restore(self) -> str:
        """Restore a backup, perhaps so soon that it is not made yet, to another instance."""
        if not self._backups:
            return await self._back_up()
        name, backup = self._new_name(), self._rng.choice(self._backups)
        held = self._service.ledger.history.backups[backup]
        return await self._begun_with(held, name, await self._service.restore(name, backup))

    async def _copy(self) -> str:
        return await self._copied(self._any())

    async def _copied(self, source: int) -> str:
        name = self._new_name()
        held = self._service.ledger.history.holds(await self._mark(source))
        mode = self._rng.choice(("online", "closed"))
        return await self._begun_with(held, name, await self._service.copy(name, source, mode))

    async def _begun_with(self, held: Contents, name: str, accepted: Json | None) -> str:
        """Note what the database of an instance had when it was made."""
        found = accepted["id"] if accepted else await self._service.live(name)
        if found is not None:
            self._service.ledger.history.origins[await self._mark(found)] = held
            self._instances[found] = name
        return self._heard(accepted)

    async def _verify_backup(self) -> str:
        return await self._of_a_backup("POST", "/verify")

    async def _delete_backup(self) -> str:
        return await self._of_a_backup("DELETE")

    async def _of_a_backup(self, method: str, path: str = "") -> str:
        if not self._backups:
            return await self._back_up()
        backup = self._rng.choice(self._backups)
        answer = await self._service.send(method, f"/v2/backups/{backup}{path}")
        return "accepted" if answer.is_success else "refused"

    async def _reset(self) -> str:
        return await self._reset_to({}, Contents())

    async def _reset_to_copy(self) -> str:
        """Reset an instance to a copy of any, perhaps of itself, which is refused."""
        source = self._any()
        held = self._service.ledger.history.holds(await self._mark(source))
        mode = self._rng.choice(("online", "closed"))
        return await self._reset_to({"copyOf": source, "mode": mode}, held)

    async def _reset_to_backup(self) -> str:
        """Reset an instance to a backup of any, perhaps so soon that it is not made yet."""
        if not self._backups:
            return await self._back_up()
        backup = self._rng.choice(self._backups)
        return await self._reset_to({"backupId": backup}, self._service.ledger.history.backups[backup])

    async def _reset_to(self, origin: Json, held: Contents) -> str:
        instance = self._any()
        # Before it is requested: a request without an answer may have been accepted.
        self._service.ledger.history.see_reset(await self._mark(instance), held)
        return self._heard(await self._service.reset(instance, self._instances[instance], origin))

    async def _undo_reset(self) -> str:
        instance = self._any()
        return self._heard(await self._service.undo_reset(instance, self._instances[instance]))

    async def _snapshot(self) -> str:
        instance = self._any()
        history = self._service.ledger.history
        held = history.holds(await self._mark(instance))
        accepted = await self._service.snapshot(instance, self._instances[instance])
        if accepted is not None:
            history.snapshots[accepted["databaseName"]] = held
        return self._heard(accepted)

    async def _changed(self, instance: int, changes: Json) -> str:
        accepted = await self._service.change(instance, self._instances[instance], changes)
        return "accepted" if accepted else "refused"

    async def _retry(self) -> str:
        failed = [it for it, name in self._instances.items() if name in self._surroundings.occupied]
        instance = self._rng.choice(failed or list(self._instances))
        accepted = await self._service.retry(instance, self._instances[instance])
        return "accepted" if accepted else "refused"

    async def _poll(self) -> str:
        return str((await self._service.job(self._rng.choice(self._jobs)))["status"])

    async def _sweep(self) -> str:
        answer = await self._service.send("POST", "/v2/sweep")
        return "accepted" if answer.is_success else "refused"


def _told(action: Callable[[], Awaitable[str]]) -> str:
    return getattr(action, "__name__", "").strip("_").replace("_", " ")
