"""A real Prometheus on real metrics ports, with the rules that the product ships."""

import json
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from ods.embedded.polling import wait_until
from ods.embedded.ports import free_port
from ods.programs import process
from ods.programs.process import Command
from tests.alerts.rules import shortened

_SCRAPE_MILLISECONDS = 15_000
"""As `deploy/monitoring/prometheus.yml` has it."""
_START_SECONDS = 30


class Prometheus:
    """A Prometheus that scrapes what `watch` names.

    Args:
        folder: for its configuration and data.
        factor: by which everything takes less time than in production.
    """

    def __init__(self, folder: Path, factor: float) -> None:
        folder.mkdir()
        self._folder = folder
        self._factor = factor
        self._url = f"http://127.0.0.1:{free_port()}"

    def watch(self, job: str, targets: Iterable[str], labels: Mapping[str, str] | None = None) -> None:
        """Scrape these addresses, and no others, as `job` from now on."""
        content = [{"targets": list(targets), "labels": dict(labels or {})}]
        fresh = self._folder / f"{job}.new"
        fresh.write_text(json.dumps(content))
        fresh.rename(self._targets(job))

    @asynccontextmanager
    async def running(self, jobs: Mapping[str, Mapping[str, Any]]) -> AsyncIterator[None]:
        """Run it, with further settings for each job, while the body runs."""
        interval = f"{round(_SCRAPE_MILLISECONDS / self._factor)}ms"
        (self._folder / "rules.yml").write_text(yaml.safe_dump(shortened(self._factor)))
        configuration = {
            "global": {
                "scrape_interval": interval,
                "scrape_timeout": interval,
                "evaluation_interval": interval,
            },
            "rule_files": ["rules.yml"],
            "scrape_configs": [
                {"job_name": job, "file_sd_configs": [{"files": [str(self._targets(job))]}], **more}
                for job, more in jobs.items()
            ],
        }
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        arguments = (
            *("prometheus", f"--config.file={self._folder / 'prometheus.yml'}"),
            *(f"--storage.tsdb.path={self._folder / 'data'}", "--log.level=warn"),
            f"--web.listen-address={self._url.removeprefix('http://')}",
        )
        async with program("prometheus", arguments, self._folder / "prometheus.log"):
            await wait_until(self._is_ready, _START_SECONDS)
            yield

    async def state(self, alert: str) -> str:
        """`firing`, `pending` or `inactive`.

        Raises:
            AssertionError: Prometheus could not evaluate the rule.
        """
        rules = (await self._get("/api/v1/rules", type="alert"))["groups"]
        (rule,) = (one for group in rules for one in group["rules"] if one["name"] == alert)
        assert not rule.get("lastError"), rule["lastError"]
        return str(rule["state"])

    async def summaries(self, alert: str) -> list[str]:
        """What an operator reads of each firing alert of this name."""
        found = (await self._get("/api/v1/alerts"))["alerts"]
        return [
            one["annotations"]["summary"]
            for one in found
            if one["labels"]["alertname"] == alert and one["state"] == "firing"
        ]

    async def value(self, query: str) -> float | None:
        """The first value that a query gives now; None if it gives none."""
        found = (await self._get("/api/v1/query", query=query))["result"]
        return float(found[0]["value"][1]) if found else None

    async def _is_ready(self) -> bool:
        try:
            async with httpx.AsyncClient(base_url=self._url, trust_env=False) as client:
                return (await client.get("/-/ready")).is_success
        except httpx.TransportError:
            return False

    async def _get(self, path: str, **parameters: str) -> Any:
        async with httpx.AsyncClient(base_url=self._url, trust_env=False, timeout=30) as client:
            return (await client.get(path, params=parameters)).raise_for_status().json()["data"]

    def _targets(self, job: str) -> Path:
        return self._folder / f"{job}.json"


@asynccontextmanager
async def program(name: str, arguments: tuple[str, ...], log: Path) -> AsyncIterator[None]:
    """Run a program of the system while the body runs."""
    command = Command(name, arguments, {"PATH": os.environ["PATH"], "HOME": os.devnull})
    child = await process.start(command, log)
    try:
        yield
    finally:
        await process.stop(child, command)
