"""Work in another process, so that the one that makes the load takes no time from the one that measures."""

import asyncio
import gc
import multiprocessing
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


def run_in_process(work: Callable[_P, Coroutine[Any, Any, _R]], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run the coroutine function `work`, of any module, in another process; returns its result."""
    with run_beside(work, *args, **kwargs) as result:
        return result.result()


@contextmanager
def run_beside(
    work: Callable[_P, Coroutine[Any, Any, _R]], *args: _P.args, **kwargs: _P.kwargs
) -> Iterator[Future[_R]]:
    """Start `work` in another process; the block goes on beside it, and does not end before it."""
    # Not forked: a copy would share this process's sockets and event loop.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        result: Future[_R] = process.submit(_run, work, args, kwargs)
        yield result


def _run(work: Callable[..., Coroutine[Any, Any, Any]], args: Any, kwargs: Any) -> Any:  # noqa: ANN401 - any
    gc.freeze()  # a garbage collection here would be measured as a pause of the service
    return asyncio.run(work(*args, **kwargs))
