"""Incidents of `docs/operations/incidents.md` that need no file system of their own, without Prometheus."""

import pytest

from tests.alerts import incidents, site
from tests.servers import server_folder


async def not_watched(_alert: str, _state: str) -> None:
    """`make test-alerts` waits for the alert."""


@pytest.mark.long
@pytest.mark.parametrize("incident", [incidents.REGISTRY, incidents.WORKER], ids=lambda it: it.heading)
async def test_incident_is_over_when_the_commands_of_its_page_are_run(incident: incidents.Incident) -> None:
    with server_folder() as folder:
        async with site.running(folder, factor=10) as found:
            await incidents.play(found, incident, not_watched)
