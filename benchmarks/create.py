"""What creating an instance costs beyond PostgreSQL's own CREATE DATABASE.

Starts an embedded stack of its own. Rounds of both kinds alternate, so that whatever else the machine does
weighs on both: a bare `CREATE DATABASE` from the Minimal template, with the strategy and the private name the
service uses, and a `POST /v2/dbInstances` until the job is `Completed`, as a client sees it that polls.
"""

import argparse
import asyncio
import json
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from cli.data_folder import DataFolder, StackFile
from cli.ports import Ports, free_ports
from cli.serving import serving

RESULTS = Path(__file__).parent / "results" / "create.json"
_TEMPLATE = "EdFi_Ods_Minimal_Template"
_POLL_SECONDS = 0.005
_LIMIT_MS = 150


@dataclass(frozen=True)
class Sample:
    """Durations of one kind of round, in milliseconds."""

    name: str
    values: list[float]

    @property
    def median(self) -> float:
        """Half of the rounds took less."""
        return statistics.median(self.values)

    @property
    def p95(self) -> float:
        """One round in twenty took more."""
        return statistics.quantiles(self.values, n=20)[-1]


async def bare_create(connection: asyncpg.Connection, number: int) -> float:
    """Milliseconds of a CREATE DATABASE that PostgreSQL is asked for directly."""
    started = time.perf_counter()
    await connection.execute(
        f'CREATE DATABASE "bare_{number}" TEMPLATE "{_TEMPLATE}" STRATEGY WAL_LOG ALLOW_CONNECTIONS false'
    )
    took = time.perf_counter() - started
    await connection.execute(f'DROP DATABASE "bare_{number}"')
    return took * 1000


async def managed_create(http: httpx.AsyncClient, number: int) -> tuple[float, float]:
    """Milliseconds from the POST to its 202, and to `Completed`; the instance is deleted again."""
    started = time.perf_counter()
    answer = await http.post(
        "/v2/dbInstances", json={"name": f"Bench {number}", "databaseTemplate": "Minimal"}
    )
    accepted = time.perf_counter() - started
    created = answer.raise_for_status().json()
    await _completed(http, created["jobId"])
    completed = time.perf_counter() - started
    deleted = (await http.delete(f"/v2/dbInstances/{created['id']}")).raise_for_status().json()
    await _completed(http, deleted["jobId"])
    return accepted * 1000, completed * 1000


async def _completed(http: httpx.AsyncClient, job: str) -> None:
    while (state := (await http.get(f"/v2/jobs/{job}")).json())["status"] != "Completed":
        if state["status"] == "Error":
            raise RuntimeError(state["errorMessage"])
        await asyncio.sleep(_POLL_SECONDS)


async def measure(stack: StackFile, rounds: int) -> list[Sample]:
    """`rounds` rounds of each kind, after one that does not count."""
    bare, accepted, completed = (
        Sample("bare CREATE DATABASE", []),
        Sample("POST to 202", []),
        Sample("POST to Completed", []),
    )
    connection = await asyncpg.connect(stack["postgres"]["master_dsn"])
    async with httpx.AsyncClient(base_url=stack["api"]["url"], timeout=30, trust_env=False) as http:
        await _authorise(http, stack)
        for number in range(rounds + 1):
            bare_ms = await bare_create(connection, number)
            accepted_ms, completed_ms = await managed_create(http, number)
            if number:
                bare.values.append(bare_ms)
                accepted.values.append(accepted_ms)
                completed.values.append(completed_ms)
    await connection.close()
    overhead = Sample("overhead", [c - b for b, c in zip(bare.values, completed.values, strict=True)])
    return [bare, accepted, completed, overhead]


async def _authorise(http: httpx.AsyncClient, stack: StackFile) -> None:
    form = {
        "grant_type": "client_credentials",
        "client_id": stack["client"]["id"],
        "client_secret": stack["client"]["secret"],
        "scope": "edfi_admin_api/full_access",
    }
    token = (await http.post("/connect/token", data=form)).raise_for_status().json()["access_token"]
    http.headers["Authorization"] = f"Bearer {token}"


def report(samples: list[Sample]) -> dict[str, Any]:
    """Print the table, and return it with a description of the machine."""
    print(f"{'':24}{'median ms':>12}{'p95 ms':>12}{'ratio':>10}")
    bare = samples[0].median
    for sample in samples:
        print(f"{sample.name:24}{sample.median:12.1f}{sample.p95:12.1f}{sample.median / bare:10.2f}")
    return {
        "machine": {"system": platform.platform(), "python": platform.python_version()},
        "rounds": len(samples[0].values),
        "milliseconds": {
            sample.name: {"median": round(sample.median, 1), "p95": round(sample.p95, 1)}
            for sample in samples
        },
    }


def main() -> None:
    """Measure on a stack of its own, and exit 1 if the overhead is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)  # PostgreSQL's own user must get through when this runs as root
        api, temporal, temporal_ui = free_ports(3)
        ports = Ports(api, temporal, temporal_ui, postgres=None)
        with serving(DataFolder(Path(folder) / "stack"), ports, keep=False) as stack:
            samples = asyncio.run(measure(stack, rounds))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report(samples), indent=2) + "\n")
    overhead = samples[-1].median
    print(f"\nMedian overhead {overhead:.1f} ms; at most {_LIMIT_MS} ms are allowed.")
    raise SystemExit(overhead > _LIMIT_MS)


if __name__ == "__main__":
    main()
