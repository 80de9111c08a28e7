"""The search for secrets in what tests leave: it finds what was put there."""

import json
from pathlib import Path

import pytest
from prometheus_client import Counter

from ods.observability.metrics.catalog import INSTRUMENTS
from tests.secret_search import SecretSearch

SECRET = "a-secret-that-was-planted"


@pytest.fixture
def search() -> SecretSearch:
    """A search of the test's own."""
    made = SecretSearch()
    made.add(SECRET)
    return made


def test_nothing_is_found_when_there_is_no_secret(search: SecretSearch) -> None:
    search.search("a-secret-that-was-not", "a line")
    assert search.findings == []


def test_secret_is_found_once_with_its_place(search: SecretSearch) -> None:
    for _ in range(2):
        search.search(f"password={SECRET};", "a line")
    assert search.findings == [f"a line: {f'password={SECRET};'.encode()!r}"]


def test_secret_is_found_when_a_log_of_a_server_has_it(search: SecretSearch, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "postgres.log").write_text(f"STATEMENT: ALTER ROLE r PASSWORD '{SECRET}'")
    search.search_folder(tmp_path)
    (finding,) = search.findings
    assert finding.startswith("data/postgres.log: ")


def test_secret_of_a_stack_is_found_when_its_log_has_it(search: SecretSearch, tmp_path: Path) -> None:
    made = {"postgres_port": 5432, "client_id": "ods-1", "service_password": "made-for-this-stack"}
    (tmp_path / "secrets.json").write_text(json.dumps(made))
    (tmp_path / "api.log").write_text("ods-1 connects with made-for-this-stack")
    search.search_folder(tmp_path)
    (finding,) = search.findings
    assert finding.startswith("api.log: ")


def test_secret_is_found_when_a_metric_has_it_as_a_label(search: SecretSearch) -> None:
    counter = Counter("planted_total", "For a test.", ("client",), registry=INSTRUMENTS)
    counter.labels(SECRET)
    try:
        search.search_metrics()
    finally:
        INSTRUMENTS.unregister(counter)
    assert len(search.findings) == 1
