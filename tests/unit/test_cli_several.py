"""Commands for several instances go on when something is refused for one of them."""

import pytest

from ods.cli.client import UnreachableError
from ods.cli.several import for_each
from ods.embedded.errors import CommandError


def refuse(instance: str) -> str:
    """What is requested; refused for `b`."""
    if instance == "b":
        raise CommandError("It is protected.")
    return f"job of {instance}"


def test_all_others_are_requested_before_any_is_finished_when_one_is_refused() -> None:
    done: list[str] = []

    def request(instance: str) -> str:
        done.append(f"request {instance}")
        return refuse(instance)

    def finish(job: str) -> None:
        done.append(f"finish {job}")
        if job == "job of a":
            raise CommandError("It failed.")

    with pytest.raises(CommandError) as refused:
        for_each(["a", "b", "c"], request, finish)
    assert str(refused.value).splitlines() == ["b: It is protected.", "a: It failed."]
    assert done == ["request a", "request b", "request c", "finish job of a", "finish job of c"]


def test_reason_alone_is_told_when_there_is_one_instance() -> None:
    with pytest.raises(CommandError) as refused:
        for_each(["b"], refuse, lambda _: None)
    assert str(refused.value) == "It is protected."


def test_no_other_is_requested_when_no_api_answers() -> None:
    requested = []

    def request(instance: str) -> None:
        requested.append(instance)
        raise UnreachableError("No API answers.")

    with pytest.raises(UnreachableError):
        for_each(["a", "b"], request, lambda _: None)
    assert requested == ["a"]
