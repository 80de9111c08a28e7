"""A sample of the matrix: what becomes of the rows of clients is as `expected.txt` says."""

from collections.abc import AsyncIterator

import pytest

from tests.put_back.histories import Player, PutBack, Story
from tests.put_back.judgement import Verdict
from tests.put_back.operations import OPERATIONS
from tests.put_back.sample import SAMPLE
from tests.put_back.site import site_in
from tests.put_back.table import Expected
from tests.servers import server_folder

pytestmark = pytest.mark.long


@pytest.fixture(scope="package")
async def player() -> AsyncIterator[Player]:
    """What plays on a site of its own."""
    with server_folder() as parent:
        folder = parent / "site"
        folder.mkdir(mode=0o711)
        async with site_in(folder) as site:
            yield Player(site)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("story", "put_backs"), SAMPLE.items(), ids=[it.operation for it in SAMPLE])
async def test_rows_are_where_the_table_says_when_something_was_put_back(
    player: Player, story: Story, put_backs: tuple[PutBack, ...]
) -> None:
    played = await player.play(story)
    found: dict[PutBack, Verdict] = {
        put_back: await player.put_back(played, put_back) for put_back in put_backs
    }
    await player.forget(played)
    expected = Expected.read().words
    words = {put_back: verdict.word for put_back, verdict in found.items()}
    assert words == {put_back: expected.get((story, put_back)) for put_back in put_backs}, found


def test_sample_has_every_operation_and_every_put_back() -> None:
    assert {story.operation for story in SAMPLE} == OPERATIONS.keys()
    assert {put_back for put_backs in SAMPLE.values() for put_back in put_backs} == set(PutBack)
