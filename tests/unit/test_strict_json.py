"""Payloads of other releases are refused, whatever they have more or less than this release knows."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload

from ods.model.arguments import MakeArguments
from ods.model.operations import Operation
from ods.model.origins import CopyOrigin
from ods.registry.instances.jobs import InstanceJob, JobFailure, Replacement
from ods.temporal.client import DATA_CONVERTER
from ods.temporal.strict_json import OtherReleaseError
from tests.unit.example import JOB

_FULL = replace(
    JOB,
    operation=Operation.RESET,
    arguments=MakeArguments(CopyOrigin(7, mark="its")),
    replacement=Replacement(
        *("its id", "Minimal", 60),
        from_trash=False,
        by=None,
        keeps=True,
        origin=CopyOrigin(7, mark="its"),
    ),
)


def _read(value: object, hint: type = InstanceJob) -> Any:
    payload = Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(value).encode())
    return DATA_CONVERTER.payload_converter.from_payload(payload, hint)


def test_job_is_as_it_was_when_this_release_has_written_it() -> None:
    assert _read(asdict(_FULL)) == _FULL
    assert _read(asdict(JobFailure(_FULL, "no")), JobFailure) == JobFailure(_FULL, "no")


@pytest.mark.parametrize(
    "path",
    [(), ("policy",), ("arguments",), ("arguments", "origin"), ("replacement",), ("replacement", "origin")],
)
def test_job_is_refused_when_some_part_has_a_field_that_this_release_does_not_know(
    path: tuple[str, ...],
) -> None:
    written = asdict(_FULL)
    part = written
    for name in path:
        part = part[name]
    part["keep_a_copy"] = True
    with pytest.raises(OtherReleaseError):
        _read(written)
    with pytest.raises(OtherReleaseError):
        _read(asdict(JobFailure(_FULL, "no")) | {"job": written}, JobFailure)


@pytest.mark.parametrize("name", ["arguments", "operation", "mark", "policy"])
def test_job_is_refused_when_a_field_is_missing_that_it_needs(name: str) -> None:
    written = asdict(_FULL)
    del written[name]
    with pytest.raises(OtherReleaseError):
        _read(written)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arguments", "none"),
        ("arguments", None),
        ("arguments", {}),
        ("operation", "Archive"),
        ("number", None),
    ],
)
def test_job_is_refused_when_a_field_has_a_value_of_another_kind(name: str, value: object) -> None:
    with pytest.raises(OtherReleaseError):
        _read(asdict(_FULL) | {name: value})


def test_refusal_says_nothing_of_the_job() -> None:
    with pytest.raises(OtherReleaseError) as refused:
        _read(asdict(_FULL) | {"secret": "value"})
    assert str(refused.value) == "Another release has written what this one cannot read."
    assert refused.value.__cause__ is None
