"""What traces of one request in ten cost: a stack with them and one without, in turns."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.bench import Bench
from benchmarks.load import Client
from benchmarks.measurement import Findings, Measurement, at_most
from benchmarks.subprocesses import run_in_process
from ods.embedded.data_folder import StackFile

_RATIO = 0.1
_LIMIT = 1.05


@dataclass
class Rounds:
    """Milliseconds of each create on one stack: until the 202, and until `Completed`."""

    accepted: list[float] = field(default_factory=list)
    completed: list[float] = field(default_factory=list)


def run(bench: Bench) -> Findings:
    """Create instances on both stacks, first on the one, then on the other, and the other way round."""
    with _collector() as address:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": address,
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(_RATIO),
        }
        with (
            bench.stacks.fresh(ODS_SPARES="0") as (_, untraced),
            bench.stacks.fresh(ODS_SPARES="0", **variables) as (_, traced),
        ):
            without, with_traces = run_in_process(_measure, untraced, traced, bench.pick(300, quick=2))
    measurements, limits = [], []
    for what in ("accepted", "completed"):
        subject = "POST to 202" if what == "accepted" else "POST to Completed"
        bare = Measurement(f"{subject}, without traces", getattr(without, what))
        traces = Measurement(f"{subject}, {_RATIO:.0%} traced", getattr(with_traces, what), bare=bare)
        measurements += [bare, traces]
        limits.append(at_most(f"{traces.name}, median / without", traces.median / bare.median, _LIMIT, "x"))
    return Findings(measurements, limits)


async def _measure(untraced: StackFile, traced: StackFile, rounds: int) -> tuple[Rounds, Rounds]:
    """Measure after some rounds that do not count."""
    found = (Rounds(), Rounds())
    async with Client(untraced) as first, Client(traced) as second:
        stacks = [(first, found[0]), (second, found[1])]
        for number in range(-5, rounds):
            for client, into in stacks[:: 1 if number % 2 else -1]:
                created = await client.create(f"Traced {number + 5}")
                if number >= 0:
                    into.accepted.append(created.accepted)
                    into.completed.append(created.completed)
    return found


@contextmanager
def _collector() -> Iterator[str]:
    """What takes spans and keeps none; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Take some spans."""
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
