"""Whether the API of a stack says that all is well, and what it says otherwise."""

import httpx


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

    @property
    def explanation(self) -> str:
        """The parts that were not well when the API last answered, with the reasons; empty if it has not."""
        return " ".join(f"{part['name']}: {part.get('detail', 'no answer.')}" for part in self._found)
