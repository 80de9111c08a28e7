"""People who have gone to an issuer to sign in to the console, and have not come back yet."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.registry.storage.models import UTC_NOW, SignInAttempt
from ods.registry.storage.sessions import RegistrySessions

VALID = timedelta(minutes=10)
"""How long a person may take to come back."""


@dataclass(frozen=True)
class BegunSignIn:
    """What the console knows of a person who comes back.

    Attributes:
        after: the page that follows, its path below the console; empty for the first one.
        kept: what was typed into a form when the session before had ended, with the form's path; or None.
    """

    after: str
    kept: Mapping[str, Any] | None


class SignInAttempts:
    """The attempts of one tenant's people, by SHA-256 digests of what only their browsers have."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = RegistrySessions(engine)

    async def begin(self, digest: bytes, begun: BegunSignIn) -> None:
        """Begin an attempt, and remove those that are too old."""
        values = {"digest": digest, "after": begun.after, "kept": begun.kept, "created_at": UTC_NOW}
        async with self._sessions.statement() as session:
            await session.execute(delete(SignInAttempt).where(SignInAttempt.created_at <= UTC_NOW - VALID))
            await session.execute(insert(SignInAttempt).values(**values))

    async def take(self, digest: bytes) -> BegunSignIn | None:
        """The attempt, which counts no more then; None if it has counted, is too old, or was never begun.

        Of several requests for the same attempt, one gets it.
        """
        taking = (
            delete(SignInAttempt)
            .where(SignInAttempt.digest == digest, SignInAttempt.created_at > UTC_NOW - VALID)
            .returning(SignInAttempt)
        )
        async with self._sessions.statement() as session:
            row = (await session.scalars(taking)).one_or_none()
            return BegunSignIn(row.after, row.kept) if row else None
