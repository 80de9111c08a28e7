"""Commands that take several instances: what is refused for one of them is done for the others."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from ods.cli.client import UnreachableError
from ods.embedded.errors import CommandError

_Instance = TypeVar("_Instance")
_Requested = TypeVar("_Requested")


def for_each(
    instances: Sequence[_Instance],
    request: Callable[[_Instance], _Requested],
    finish: Callable[[_Requested], object],
) -> None:
    """Request something for each instance; then finish each request, in the same order.

    Args:
        instances: what the command line calls them.
        request: requests it for one.
        finish: waits for one request and shows what has become of it, as far as the command does so.

    Raises:
        CommandError: something was refused or has failed, telling it for each instance; or no API answers.
    """
    faults: list[str] = []
    is_one = len(instances) == 1
    requested = []
    for instance in instances:
        with _noting(faults, "" if is_one else f"{instance}: "):
            requested.append((instance, request(instance)))
    for instance, accepted in requested:
        with _noting(faults, "" if is_one else f"{instance}: "):
            finish(accepted)
    if faults:
        raise CommandError("\n".join(faults))


@contextmanager
def _noting(faults: list[str], prefix: str) -> Iterator[None]:
    """Add the error of the body to `faults`, unless no API answers."""
    try:
        yield
    except UnreachableError:
        raise
    except CommandError as error:
        faults.append(f"{prefix}{error}")
