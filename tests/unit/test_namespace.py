"""Preparing the namespace: what is refused for one tenant keeps no other tenant waiting."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.service import RPCError, RPCStatusCode

import worker


async def test_other_tenants_have_their_schedules_once_when_those_of_one_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepared: Counter[str] = Counter()
    stop = asyncio.Event()

    async def register(_: Any) -> None:
        """Nothing is missing."""

    async def ensure(_: Any, __: Any, tenant: str) -> None:
        prepared[tenant] += 1
        if tenant == "refused":
            if prepared[tenant] == 3:
                stop.set()
            raise RPCError("no", RPCStatusCode.PERMISSION_DENIED, b"")

    monkeypatch.setattr("worker._RECONNECT_SECONDS", 0.01)
    monkeypatch.setattr("worker.search_attributes.register", register)
    monkeypatch.setattr("worker.schedules.ensure", ensure)
    settings: Any = SimpleNamespace(tenants=dict.fromkeys(("before", "refused", "after")))
    async with asyncio.timeout(5):
        await worker._prepare_namespace(SimpleNamespace(), settings, stop)  # type: ignore[arg-type]  # noqa: SLF001
    assert prepared == {"before": 1, "refused": 3, "after": 1}
