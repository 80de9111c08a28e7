"""Walks through a world: twenty rules in any order, then clients go on."""

import os
from collections.abc import Sequence

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.recovery.world import World

RULES = tuple(
    rule.__name__
    for rule in (
        *(World.create, World.rename, World.reset, World.undo_reset, World.delete, World.undelete),
        *(World.purge, World.detach, World.retry, World.protect),
        *(World.cut_off, World.cancel, World.kill_api, World.save, World.save_in_the_midst),
        *(World.rename_by_hand, World.copy_by_hand),
        *(World.put_registry_back, World.put_server_back, World.put_both_back, World.lose_registry),
    )
)
"""The names of the rules of every world."""

Walk = list[tuple[str, int, int]]


def walks(rules: Sequence[str] = RULES) -> st.SearchStrategy[Walk]:
    """Twenty of these rules, each with its numbers."""
    numbers = st.integers(0, 11)
    return st.lists(st.tuples(st.sampled_from(rules), numbers, numbers), min_size=20, max_size=20)


def as_many(share: int = 1) -> settings:
    """As many walks as the variable ODS_WALKS says, or that part of them; without it, the same 50 always."""
    wanted = os.environ.get("ODS_WALKS")
    return settings(
        max_examples=int(wanted or 50) // share,
        derandomize=wanted is None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


async def take(world: World, walk: Walk) -> None:
    """Take a walk."""
    await world.begin()
    try:
        for rule, first, second in walk:
            world.log.append(f"{rule} {first} {second}")
            await getattr(world, rule)(first, second)
        await world.clients_go_on()
    finally:
        await world.end()
