import httpx

from ods.embedded.health import HealthProbe

WELL = {"name": "database", "status": "Healthy"}
OBSTACLE = {"name": "installation", "status": "Degraded", "detail": "Another one has databases there."}
SILENT = {"name": "temporal", "status": "Degraded"}


def probe(status: str, *results: dict[str, str]) -> HealthProbe:
    body = {"status": status, "results": results}
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=body))
    return HealthProbe(httpx.AsyncClient(transport=transport, base_url="http://api"))


async def test_nothing_is_explained_when_all_is_well() -> None:
    asked = probe("Healthy", WELL)
    assert await asked.is_healthy()
    assert not asked.explanation


async def test_parts_are_named_with_their_reasons_when_they_are_not_well() -> None:
    asked = probe("Degraded", WELL, OBSTACLE, SILENT)
    assert not await asked.is_healthy()
    assert asked.explanation == "installation: Another one has databases there. temporal: no answer."


async def test_stack_is_started_when_the_operator_must_confirm_something_or_all_is_well() -> None:
    waiting = probe("Degraded", WELL, OBSTACLE, SILENT)
    assert await waiting.is_started()
    assert waiting.obstacle == "Another one has databases there."
    well = probe("Healthy", WELL)
    assert await well.is_started()
    assert not well.obstacle
    unanswered = {"name": "installation", "status": "Degraded"}
    for parts in ([WELL, SILENT], [WELL, unanswered]):
        assert not await probe("Degraded", *parts).is_started()


async def test_service_is_not_healthy_when_the_api_does_not_answer() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    asked = HealthProbe(httpx.AsyncClient(transport=httpx.MockTransport(refuse), base_url="http://api"))
    assert not await asked.is_healthy()
    assert not asked.explanation
