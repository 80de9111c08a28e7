"""Names, labels and documentation of metrics, and how what is asked for a scrape is asked."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from ods.embedded.ports import free_port, is_taken
from ods.observability.metrics import figures
from ods.observability.metrics.catalog import DEFINITIONS, INSTANCES, INSTRUMENTS, SCRAPE_ERRORS
from ods.observability.metrics.expiring import ExpiringGauge
from ods.observability.metrics.exposition import CONTENT_TYPE, Exposition
from ods.observability.metrics.figures import Figures, Question, Sample, Samples
from ods.observability.metrics.job_phases import measured_job, phase
from ods.observability.metrics.server import serving
from ods.observability.metrics.table import table
from ods.registry.figures import what_is_away
from ods.registry.migrations import revisions
from ods.registry.readiness import known_revisions
from ods.settings.settings import InvalidSettingsError, Settings
from workflows.job_workflow import _reason

PAGE = Path(__file__).parents[2] / "docs" / "operations" / "metrics.md"
LABELS = {
    *("route", "method", "status", "operation", "outcome", "tenant", "phase", "kind", "state", "what"),
    *("template", "schedule", "pool", "source", "version", "class", "limit"),
}
"""Those with few values: none is the id or the name of what clients make."""


def test_page_has_the_table_that_the_code_makes() -> None:
    assert table() in PAGE.read_text(), "python -m ods.observability.metrics.table prints it"


def test_names_and_labels_are_as_prometheus_wants_them() -> None:
    assert len({it.name for it in DEFINITIONS}) == len(DEFINITIONS)
    for it in DEFINITIONS:
        assert re.fullmatch(r"ods(_[a-z]+)+", it.name)
        assert it.name.endswith("_total") is (it.kind == "counter")
        assert set(it.labels) <= LABELS, it.name
        assert it.help.endswith(".")


def errors(source: str) -> float:
    return float(SCRAPE_ERRORS.labels(source)._value.get())  # noqa: SLF001 - the client offers no other way


def sample(number: float) -> Sample:
    return Sample(INSTANCES, ("Completed", "one"), number)


class Asked:
    """Something to ask, which counts how often that is done."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.times = 0
        self.fault = fault
        self.answers = asyncio.Event()
        self.answers.set()

    async def ask(self) -> Samples:
        self.times += 1
        await self.answers.wait()
        if self.fault:
            raise self.fault
        return [sample(self.times)]


async def test_question_is_asked_once_when_several_scrapes_come_shortly_after_each_other() -> None:
    asked = Asked()
    read = Figures([Question("registry", asked.ask)])

    found = [*await asyncio.gather(read.samples(), read.samples()), await read.samples()]

    assert found == [[sample(1)]] * 3
    assert asked.times == 1


async def test_samples_are_absent_and_counted_when_a_question_gets_no_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(figures, "_FRESH_SECONDS", 0.0)
    monkeypatch.setattr(figures, "_SHARE", 0)
    away, other = Asked(), Asked()
    read = Figures([Question("registry", away.ask), Question("server", other.ask)])
    before = errors("registry"), errors("server")
    assert len(await read.samples()) == 2

    away.fault = OSError("with a secret")
    assert await read.samples() == [sample(2)]
    assert await read.samples() == [sample(3)]

    assert (errors("registry"), errors("server")) == (before[0] + 2, before[1])
    told = [record for record in caplog.records if record.name == figures.__name__]  # others log meanwhile
    assert len(told) == 1  # an outage is logged once
    assert "secret" not in caplog.text
    away.fault = None
    assert len(await read.samples()) == 2


async def test_scrape_shows_what_was_known_when_an_answer_takes_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(figures, "_FRESH_SECONDS", 0.0)
    monkeypatch.setattr(figures, "_SHARE", 0)
    monkeypatch.setattr(figures, "_WAIT_SECONDS", 0.01)
    slow, before = Asked(), errors("server")
    read = Figures([Question("server", slow.ask, limit=0.05)])
    assert await read.samples() == [sample(1)]

    slow.answers.clear()
    assert await read.samples() == [sample(1)]

    async with asyncio.timeout(5):
        while await read.samples():  # until the limit has passed
            await asyncio.sleep(0.01)
    assert errors("server") > before
    await read.close()


def test_values_of_a_look_are_absent_when_they_are_old() -> None:
    gauge, read = ExpiringGauge("ods_example", "An example.", ["kind", "tenant"]), CollectorRegistry()
    read.register(gauge)
    gauge.replace("one", {"a": 1, "b": 0}, seconds=60)
    gauge.replace("two", {"a": 2}, seconds=0)

    assert read.get_sample_value("ods_example", {"kind": "a", "tenant": "one"}) == 1
    assert read.get_sample_value("ods_example", {"kind": "b", "tenant": "one"}) == 0
    assert read.get_sample_value("ods_example", {"kind": "a", "tenant": "two"}) is None

    gauge.replace("one", {"a": 3}, seconds=60)
    assert read.get_sample_value("ods_example", {"kind": "a", "tenant": "one"}) == 3
    assert read.get_sample_value("ods_example", {"kind": "b", "tenant": "one"}) is None


def test_phase_is_measured_when_it_is_a_jobs_and_ends_well() -> None:
    def measured() -> float:
        labels = {"operation": "Example", "phase": "clone"}
        return INSTRUMENTS.get_sample_value("ods_job_duration_seconds_count", labels) or 0

    with phase("clone"):  # of a spare
        pass
    with pytest.raises(OSError), measured_job("Example"), phase("clone"):  # noqa: PT011 - any
        raise OSError
    assert measured() == 0
    with measured_job("Example"), phase("clone"):
        pass
    assert measured() == 1


@pytest.mark.parametrize(
    ("reason", "what"),
    [
        ("The registry cannot be reached, or cannot be written to.", "registry"),
        ("This registry was copied or moved: … `ods recover --apply --confirm` if this one …", "operator"),
        ("The PostgreSQL server of the ODS databases cannot be reached.", "server"),
        ("The PostgreSQL server has run out of disk space; clones pause. Free some.", "disk"),
        ("The store of s3://backups cannot be reached, or is too slow.", "backup_store"),
        (_reason(TimeoutError()), "worker"),
        ("Session 7 of the role 'x' holds a lock on the database 'y'.", "other"),
    ],
)
def test_what_is_away_is_one_of_few_words_when_a_job_waits(reason: str, what: str) -> None:
    assert what_is_away(reason) == what


def test_revisions_are_known_without_loading_the_migrations() -> None:
    assert known_revisions() == revisions()[::-1]


class Process:
    """A process that says of itself what the test wants."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.away: list[str] = []

    async def start_obstacles(self) -> Sequence[str]:
        return self.reasons

    async def obstacles(self) -> Sequence[str]:
        return self.reasons

    async def concerns(self) -> Sequence[str]:
        return self.away


async def _no_sdk() -> bytes:
    return b"# TYPE temporal_example gauge\ntemporal_example 1\n"


def _settings(values: dict[str, Any], port: int | None) -> Settings:
    return Settings(**values, metrics_port=port)


async def test_port_answers_scrapes_and_probes_when_one_is_set(values: dict[str, Any]) -> None:
    port, process = free_port(), Process()
    exposition = Exposition(Figures([Question("registry", Asked().ask)]), list, _no_sdk)
    async with (
        serving(_settings(values, port), exposition.text, process),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        scraped = await client.get("/metrics")
        assert scraped.headers["Content-Type"] == CONTENT_TYPE
        families = {it.name: it for it in text_string_to_metric_families(scraped.text)}
        assert families["ods_instances"].samples[0].value == 1
        assert {"ods_build_info", "process_open_fds", "temporal_example"} <= families.keys()
        assert not [name for name in families if name.endswith("_created")]

        for path, status in (("/livez", "alive"), ("/readyz", "ready"), ("/startupz", "started")):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()) == (200, {"status": status})
        process.away = ["Temporal cannot be reached."]
        answer, strict = await client.get("/readyz"), await client.get("/readyz?strict")
        assert (answer.status_code, answer.json()) == (200, {"status": "ready", "concerns": process.away})
        assert (strict.status_code, strict.json()) == (503, {"status": "not ready", "reasons": process.away})
        process.away = []
        process.reasons = ["The registry cannot be reached."]
        assert (await client.get("/livez")).status_code == 200
        for path, status in (("/readyz", "not ready"), ("/startupz", "not started")):
            answer = await client.get(path)
            assert answer.status_code == 503
            assert answer.json() == {"status": status, "reasons": process.reasons}

        head = await client.head("/metrics")
        assert (head.status_code, head.content) == (200, b"")
        assert (await client.get("/elsewhere")).status_code == 404
        assert (await client.post("/metrics")).status_code == 405
    assert not is_taken(port)


async def test_start_is_refused_when_the_port_for_metrics_is_taken(values: dict[str, Any]) -> None:
    settings = _settings(values, free_port())
    exposition = Exposition(Figures(()), list, _no_sdk)
    refused = pytest.raises(InvalidSettingsError, match="ODS_METRICS_PORT")
    async with serving(settings, exposition.text, Process()):
        with refused:
            async with serving(settings, exposition.text, Process()):
                pytest.fail("two processes have one port")


async def test_no_port_is_opened_when_none_is_set(values: dict[str, Any]) -> None:
    exposition = Exposition(Figures(()), list, _no_sdk)
    async with serving(_settings(values, None), exposition.text, Process()):
        pass
