"""What a person does at the console."""

from dataclasses import dataclass

from playwright.async_api import Page, expect

from tests.secret_search import as_secret

CLIENT, READER = "a-person", "a-reader"
SECRET = as_secret("Correct-Horse-Battery-Staple-2027-Grand-Bend")


@dataclass(frozen=True)
class Person:
    """A person at a page of the browser."""

    page: Page

    async def sign_in(self, client: str = CLIENT, secret: str = SECRET) -> None:
        """Open the console, and sign in."""
        await self.page.goto("/console")
        await self.fill_in(client, secret)
        await expect(self.page.get_by_role("heading", name="Instances", exact=True)).to_be_visible()

    async def fill_in(self, client: str = CLIENT, secret: str = SECRET) -> None:
        """Fill in the page for signing in, and send it."""
        await self.page.get_by_label("Client ID").fill(client)
        await self.page.get_by_label("Client secret").fill(secret)
        await self.page.get_by_role("button", name="Sign in").click()

    async def create(self, name: str) -> None:
        """Request an instance from the first template."""
        await self.page.goto("/console/instances/new")
        await self.page.get_by_label("Name", exact=True).fill(name)
        await self.page.get_by_role("button", name="Create", exact=True).click()

    async def sees_heading(self, name: str) -> None:
        await expect(self.page.get_by_role("heading", level=1, name=name, exact=True)).to_be_visible()
