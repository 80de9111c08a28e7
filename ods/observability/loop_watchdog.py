"""Ends a process whose event loop has stopped answering, so that what started the process starts it again.

Without, a worker that hangs keeps its jobs, and an API process its connections, until a person restarts it.
"""

import asyncio
import logging
import os
import sys
import threading
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ods.observability.logs import place_name

LIMIT_SECONDS = 120
"""How long the event loop may not answer: longer than a loaded machine delays it, and than a scrape takes."""

_PERIOD_SECONDS = 1
_LONGEST_WRITE_SECONDS = 2
"""How long the process goes on for the sake of its last line, on a loaded machine."""
_EXIT_STATUS = 70
"""`EX_SOFTWARE` of sysexits.h: an internal fault."""

_logger = logging.getLogger(__name__)


@asynccontextmanager
async def watched_loop() -> AsyncIterator[None]:
    """Watch the running event loop until the body ends.

    If it does not answer for `LIMIT_SECONDS`, the process ends at once, as if it were killed: its jobs go on
    when it is started again, or in other processes. Time in which the whole process is suspended does not
    count, for the watching thread is suspended as well.
    """
    ended = threading.Event()
    arguments = (asyncio.get_running_loop(), threading.get_ident(), ended)
    thread = threading.Thread(target=_watch, args=arguments, name="loop-watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _watch(loop: asyncio.AbstractEventLoop, loop_thread: int, ended: threading.Event) -> None:
    answered = threading.Event()
    loop.call_soon_threadsafe(answered.set)
    missed = 0
    while not ended.wait(_PERIOD_SECONDS):
        if answered.is_set():
            missed = 0
            answered.clear()
            loop.call_soon_threadsafe(answered.set)
            continue
        missed += 1
        if missed * _PERIOD_SECONDS >= LIMIT_SECONDS:
            # In a thread of its own: what holds up the event loop may hold the lock of the log as well.
            writing = threading.Thread(target=_log_place, args=(loop_thread,), daemon=True)
            writing.start()
            writing.join(_LONGEST_WRITE_SECONDS)
            if not answered.is_set() and not ended.is_set():
                os._exit(_EXIT_STATUS)


def _log_place(loop_thread: int) -> None:
    frame = sys._current_frames()[loop_thread]  # noqa: SLF001 - the documented way
    (innermost,) = traceback.extract_stack(frame, limit=1)
    _logger.critical(
        "The event loop has not answered for %d s, at %s: unless it answers now, this process ends, to be"
        " started again.",
        LIMIT_SECONDS,
        place_name(innermost),
    )
