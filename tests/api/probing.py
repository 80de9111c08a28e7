"""Small requests that are sent while something else goes on, to see how long they take."""

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import perf_counter


@contextmanager
def probing(port: int) -> Iterator[list[float]]:
    """How many seconds each small request takes that is sent during the block, one after the other."""
    durations: list[float] = []
    stop = Event()

    def probe() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while not stop.is_set():
            started = perf_counter()
            connection.request("GET", "/")
            connection.getresponse().read()
            durations.append(perf_counter() - started)
        connection.close()

    thread = Thread(target=probe)
    thread.start()
    try:
        yield durations
    finally:
        stop.set()
        thread.join()
