"""The console's parts that need no server: how things are written, what stays within limits."""

import asyncio
import csv
import re
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi import Response

from ods import console
from ods.console.addresses import own_path
from ods.console.formats import ago, duration, size
from ods.console.issuer import Person
from ods.console.live.feed import EVERYTHING, NOTHING, ChangeFeed, topics
from ods.console.live.fragments import Fragments
from ods.console.operations import operation_word
from ods.console.static_files import static_files
from ods.console.texts import keys, t
from ods.console.views.audit import csv_line
from ods.model.operations import JOB_WORDS, ROWS
from ods.registry.instances.job_list import JobState, RecentChanges, RecentState

FOLDER = Path(console.__file__ or "").parent
TEMPLATES = sorted((FOLDER / "templates").rglob("*.html"))
AT = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("count", "written"),
    [
        (None, "\u2013"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (812_345_678, "812 MB"),
        (1_234_567_890, "1.23 GB"),
    ],
)
def test_sizes_have_three_figures_when_they_are_written(count: int | None, written: str) -> None:
    assert size(count) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (None, "\u2013"),
        (0.62, "620 ms"),
        (4.2123, "4.21 s"),
        (59.96, "60 s"),
        (738, "12.3 min"),
        (9000, "2.5 h"),
        (1e6, "11.6 d"),
    ],
)
def test_durations_have_three_figures_when_they_are_written(seconds: float | None, written: str) -> None:
    assert duration(seconds) == written


@pytest.mark.parametrize(
    ("before", "written"),
    [(0, "0 s"), (4, "4 s"), (200, "3 min"), (7300, "2 h"), (260_000, "3 d"), (-70, "1 min")],
)
def test_times_are_told_by_how_long_ago_they_were_when_they_are_written(before: int, written: str) -> None:
    assert ago(AT - timedelta(seconds=before), AT) == written
    assert ago((AT - timedelta(seconds=before)).replace(tzinfo=None), AT) == written


@pytest.mark.parametrize(
    "path", ["/console", "/console/instances?status=Error&page=2", "/console/jobs/A-1-1/cancel"]
)
def test_a_page_is_led_to_when_it_is_one_of_the_console(path: str) -> None:
    assert own_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "//example.org",
        "https://example.org",
        "/console//example.org",
        "/consoles",
        "/console/../v2",
        "/v2",
        "/console/\\evil",
        "/console/a\r\nb",
    ],
)
def test_no_page_is_led_to_when_it_is_elsewhere(path: str) -> None:
    assert own_path(path) is None


def test_script_and_styles_stay_small_when_they_grow() -> None:
    assert len(static_files()["console.js"].content) <= 5_000
    assert len(static_files()["console.css"].content) <= 20_000


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_no_template_has_what_the_policy_forbids_when_it_is_read(template: Path) -> None:
    text = template.read_text()
    assert not re.search(
        r"\|\s*safe\b|autoescape|\sstyle=|\son[a-z]+=|<style|hx-on|hx-vals=.js|javascript:", text
    )
    assert not re.search(r"<script(?![^>]* src=)", text)
    assert not re.search(r"(src|href|action)=\"(https?:)?//", text)


def used_keys() -> set[str]:
    """The keys that templates and modules name; of those that are put together, the beginning."""
    texts = [path.read_text() for path in (*TEMPLATES, *FOLDER.rglob("*.py"))]
    named = {key for text in texts for key in re.findall(r"""\bt\(\s*f?["']([\w.]+)""", text)}
    return named | {key for text in texts for key in re.findall(r'"(menu\.\w+)"', text)}


def test_every_text_is_in_the_catalogue_when_a_page_shows_it() -> None:
    used = used_keys()
    begun = tuple(key for key in used if key.endswith("."))
    assert used - keys() - set(begun) == set()
    unused = {key for key in keys() - used if not key.endswith(".one") and not key.startswith(begun)}
    # Chosen by a condition within the call.
    assert unused == {"job.ended", "meaning.gone"}


@pytest.mark.parametrize("word", sorted({rules.word for _, rules in ROWS}))
def test_every_operation_has_its_words_when_it_runs_and_when_it_has_failed(word: str) -> None:
    assert t(f"meaning.in_progress.{word}", new_name="x")
    if word in {"Create", "Delete", "Purge"}:
        assert t(f"meaning.failed.{word}")


@pytest.mark.parametrize("word", JOB_WORDS)
def test_every_operation_has_a_word_when_a_job_is_listed(word: str) -> None:
    assert operation_word(word) == t(f"operation.{word}")


@pytest.mark.parametrize("operation", ["Migrate", None])
def test_an_operation_stays_as_it_is_when_another_product_has_written_it(operation: str | None) -> None:
    assert operation_word(operation) == operation


def state(instances: dict[int, datetime | None], **jobs: JobState) -> RecentState:
    return RecentState(instances, jobs)


def test_pages_are_told_nothing_when_nothing_has_changed() -> None:
    same = state({1: AT}, job=JobState(1, "InProgress", None, 20, 5))
    assert topics(same, same) == frozenset()
    assert topics(same, state({}, job=JobState(1, "InProgress", None, 20, 5))) == frozenset()


def test_pages_are_told_of_the_job_and_its_instance_when_it_gets_on() -> None:
    before = state({}, job=JobState(1, "InProgress", None, 20, 5))
    assert topics(before, state({}, job=JobState(1, "InProgress", None, 30, 4))) == {"job:job", "instance:1"}


def test_pages_are_told_of_lists_when_something_begins_or_ends() -> None:
    running = JobState(1, "InProgress", None, 20, 5)
    assert topics(state({}), state({1: AT}, job=running)) == {"job:job", "jobs", "instance:1", "instances"}
    assert topics(state({1: AT}, job=running), state({1: AT})) == {"job:job", "jobs", "instance:1"}


class ScriptedChanges(RecentChanges):
    """A registry that is at one state after the other, and stays at the last."""

    def __init__(self, *states: RecentState) -> None:
        self.states = list(states)
        self.reads = 0
        self.is_away = False

    async def read(self) -> RecentState:
        if self.is_away:
            raise ConnectionRefusedError
        self.reads += 1
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


async def nothing_to_do() -> int:
    return 0


async def test_pages_are_told_what_needs_a_person_only_when_that_has_changed() -> None:
    found = iter((0, 0, 1))
    changes = ScriptedChanges(state({}), state({1: AT}), state({1: AT, 2: AT}))

    async def failed() -> int:
        return next(found)

    feed = ChangeFeed(changes, failed, seconds=0.01)
    async with feed.page() as told:
        assert await told.get() == EVERYTHING
        assert await told.get() == {"instance:1", "instances"}
        assert await told.get() == {"instance:2", "instances", "attention"}


async def test_pages_are_told_that_a_person_is_needed_when_a_job_waits_for_something_else() -> None:
    waiting = [JobState(1, "InProgress", reason, None, None) for reason in (None, "The operator.", None)]
    changes = ScriptedChanges(*(state({}, job=job) for job in waiting))
    feed = ChangeFeed(changes, nothing_to_do, seconds=0.01)
    async with feed.page() as told:
        assert await told.get() == EVERYTHING
        for _ in waiting[1:]:
            assert await told.get() == {"job:job", "instance:1", "attention"}


async def test_one_look_at_the_registry_is_enough_when_many_pages_are_open() -> None:
    running = JobState(1, "InProgress", None, 20, 5)
    changes = ScriptedChanges(state({}), state({}), state({}, job=running))
    feed = ChangeFeed(changes, nothing_to_do, seconds=0.01)
    async with AsyncExitStack() as pages:
        told = [await pages.enter_async_context(feed.page()) for _ in range(100)]
        for page in told:
            assert await page.get() == EVERYTHING
            assert await page.get() == {"job:job", "jobs", "instance:1"}
        assert changes.reads < 20
        assert feed.spread == 0.5
        late = await pages.enter_async_context(feed.page())
        assert await late.get() == EVERYTHING
        assert feed.is_current
    assert not feed.is_current


async def test_pages_must_ask_again_when_the_registry_is_away() -> None:
    changes = ScriptedChanges(state({}))
    feed = ChangeFeed(changes, nothing_to_do, seconds=0.01)
    async with feed.page() as told:
        assert await told.get() == EVERYTHING
        assert feed.spread == 0.005
        changes.is_away = True
        assert await told.get() == NOTHING
        assert not feed.is_current


async def test_a_fragment_is_made_once_when_many_pages_show_it_and_nothing_changes() -> None:
    feed = ChangeFeed(ScriptedChanges(state({})), nothing_to_do, seconds=60)
    fragments, made = Fragments(feed), []

    async def make() -> Response:
        made.append(1)
        await asyncio.sleep(0)
        return Response("fragment")

    async with feed.page() as told:
        await told.get()
        answers = await asyncio.gather(*(fragments.shared(("key",), make) for _ in range(100)))
        assert {answer.body for answer in answers} == {b"fragment"}
        assert len(made) == 1
        known = fragments.known(("key",))
        assert known is not None
        assert known.body == b"fragment"
        assert fragments.known(("another",)) is None
        feed.version += 1
        assert fragments.known(("key",)) is None
        await fragments.shared(("key",), make)
        assert len(made) == 2
    await fragments.shared(("key",), make)  # no change would be noticed
    assert len(made) == 3


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_spreadsheet_finds_no_formula_when_a_text_begins_like_one(text: str) -> None:
    (row,) = csv.reader([csv_line([text, 7, None, "plain"])])
    assert row[0].startswith("'")
    assert row[1:] == ["7", "", "plain"]


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"sub": "4f1c"}, "oidc:4f1c"),
        ({"sub": "4f1c", "preferred_username": "alice", "email": "a@b"}, "oidc:alice (4f1c)"),
        ({"sub": "4f1c", "email": "a@b"}, "oidc:a@b (4f1c)"),
        ({"sub": "alice", "preferred_username": "alice"}, "oidc:alice"),
        ({"sub": "4f1c", "preferred_username": ["alice"]}, "oidc:4f1c"),
        ({"sub": "4f1c", "preferred_username": "a\x00\u202eb\n"}, "oidc:a\ufffd\ufffdb\ufffd (4f1c)"),
        ({"sub": "4f1c", "preferred_username": "a" * 300}, f"oidc:{'a' * 100} (4f1c)"),
        ({"sub": "s" * 255, "preferred_username": "alice"}, f"oidc:{'s' * 251}"),
    ],
)
def test_people_are_named_by_what_the_issuer_calls_them_for_good(claims: dict[str, str], name: str) -> None:
    assert Person.of(claims, "groups").name == name


@pytest.mark.parametrize(
    ("found", "values"),
    [("a b", {"a b"}), (["a", "b", 1], {"a", "b"}), (None, set()), ({"a": 1}, set()), (1, set())],
)
def test_what_a_person_has_is_a_text_or_a_list_of_texts(found: object, values: set[str]) -> None:
    assert Person.of({"sub": "4f1c", "https://ods/groups": found}, "https://ods/groups").values == values
