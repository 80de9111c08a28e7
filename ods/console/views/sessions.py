"""What the page *Sessions* shows, and which session it ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends

from ods.console.session import SessionDep
from ods.console.views.paging import Paging
from ods.registry.console_sessions import ListedSession

PER_PAGE = 25


@dataclass(frozen=True)
class SessionsPage:
    """What the list shows."""

    rows: Sequence[ListedSession]
    paging: Paging


class SessionsView:
    """The sessions of the client or person; all of the tenant if it has full access."""

    def __init__(self, session: SessionDep) -> None:
        self._sessions = session.services.console_sessions
        self._states = session.services.session_states
        self._client = None if session.may_act else session.client

    async def page(self, number: int) -> SessionsPage:
        """A part of the list."""
        found = await self._sessions.all(self._client)
        paging = Paging(number, PER_PAGE, len(found))
        return SessionsPage(found[paging.first - 1 : paging.last], paging)

    async def end(self, session_id: UUID) -> bytes | None:
        """End a session of the list, and return its digest; None if the list has none with this id."""
        digest = await self._sessions.end_listed(session_id, self._client)
        if digest is not None:
            self._states.forget(digest)
        return digest


SessionsViewDep = Annotated[SessionsView, Depends()]
