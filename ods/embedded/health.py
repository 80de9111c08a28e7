"""Whether the API of a stack says that all is well, and what it says otherwise."""

import httpx

_INSTALLATION = "installation"
"""The part that is not well while the operator must confirm something."""


class HealthProbe:
    """Asks the API how the service is.

    Args:
        client: leads to the API.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._found: list[dict[str, str]] = []

    async def is_healthy(self) -> bool:
        """Whether the API answers and every part is well; what is not, `explanation` tells."""
        try:
            answer = await self._client.get("/health")
        except httpx.TransportError:
            return False
        report = answer.json()
        self._found = [part for part in report.get("results", []) if part["status"] != "Healthy"]
        return answer.is_success and report.get("status") == "Healthy"

    async def is_started(self) -> bool:
        """Whether every part is well, or waits for the operator, whose commands need the stack."""
        return await self.is_healthy() or bool(self.obstacle)

    @property
    def obstacle(self) -> str:
        """What the operator must confirm before anything is changed, when the API last answered; or empty."""
        return next((part.get("detail", "") for part in self._found if part["name"] == _INSTALLATION), "")

    @property
    def explanation(self) -> str:
        """The parts that were not well when the API last answered, with the reasons; empty if it has not."""
        return " ".join(f"{part['name']}: {part.get('detail', 'no answer.')}" for part in self._found)
