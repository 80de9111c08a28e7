"""Starting workflows when Temporal refuses, or answers as a real server cannot be made to at will."""

from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest
from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from ods.temporal.job_starter import JobStarter
from ods.temporal.namespace import register_search_attributes
from tests.unit.example import JOB


class _Fleeting:
    """Temporal, where the instance's workflow is open at each start and closed at each signal."""

    def __init__(self, signalled: RPCStatusCode) -> None:
        self.starts: list[Any] = []
        self._signalled = signalled

    async def start_workflow(self, *_: object, **options: Any) -> NoReturn:
        self.starts.append(options["priority"])
        raise WorkflowAlreadyStartedError("42", "CreateInstance")

    def get_workflow_handle(self, _: str) -> Any:
        return SimpleNamespace(signal=self._signal)

    async def _signal(self, *_: object, **__: object) -> NoReturn:
        raise RPCError("what the server says", self._signalled, b"")


class _Closed:
    """Temporal, whose operator service answers everything with one status."""

    namespace = "default"

    def __init__(self, status: RPCStatusCode) -> None:
        self.operator_service = self
        self.workflow_service = self
        self._status = status

    async def list_search_attributes(self, _: object) -> NoReturn:
        raise RPCError("what the server says", self._status, b"")

    async def describe_workflow_execution(self, *_: object, **__: object) -> NoReturn:
        raise RPCError("what the server says", self._status, b"")


def _starter(temporal: object) -> JobStarter:
    return JobStarter(cast("Client", temporal), "queue")


async def test_start_gives_up_when_the_workflow_opens_and_closes_too_fast() -> None:
    temporal = _Fleeting(RPCStatusCode.NOT_FOUND)
    with pytest.raises(RPCError) as refused:
        await _starter(temporal).start(JOB)
    assert refused.value.status is RPCStatusCode.ABORTED
    assert len(temporal.starts) == 5


async def test_start_fails_when_the_open_workflow_cannot_be_signalled() -> None:
    temporal = _Fleeting(RPCStatusCode.UNAVAILABLE)
    with pytest.raises(RPCError) as refused:
        await _starter(temporal).start(JOB)
    assert refused.value.status is RPCStatusCode.UNAVAILABLE
    assert len(temporal.starts) == 1


async def test_fairness_key_fits_when_the_requester_has_a_long_name() -> None:
    temporal = _Fleeting(RPCStatusCode.UNAVAILABLE)
    with pytest.raises(RPCError):
        await _starter(temporal).start(JOB, "é" * 200)
    (priority,) = temporal.starts
    assert priority.fairness_key.startswith("default/éé")
    assert len(priority.fairness_key.encode()) <= 64


async def test_caller_is_not_told_that_a_workflow_is_closed_when_temporal_does_not_know() -> None:
    with pytest.raises(RPCError):
        await _starter(_Closed(RPCStatusCode.UNAVAILABLE)).is_at_work(JOB)


async def test_search_attributes_are_taken_to_be_there_when_only_an_administrator_may_add_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await register_search_attributes(cast("Client", _Closed(RPCStatusCode.PERMISSION_DENIED)))
    assert "An administrator of Temporal must add the search attributes OdsTenant" in caplog.text


async def test_worker_hears_of_it_when_the_search_attributes_cannot_be_listed() -> None:
    with pytest.raises(RPCError):
        await register_search_attributes(cast("Client", _Closed(RPCStatusCode.UNAVAILABLE)))
