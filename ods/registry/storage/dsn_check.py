"""Checking, at the start of a process, that its addresses lead to sessions that it may work with."""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import asyncpg
from pydantic import SecretStr

from ods.registry.rights.superusers import IS_SUPERUSER, superusers
from ods.registry.storage.poolers import STATEMENT_MODE, client, keeps_session
from ods.settings.settings import AnySettings, InvalidSettingsError, login_of

_SECONDS = 5
"""Seconds for the whole check of one DSN: the start of the process waits for it."""
_AT_ONCE = 20
_AGAIN_SECONDS = 5

_POOLER = (
    "leads to a pooler in transaction or statement mode, which loses advisory locks and the settings of"
    " sessions. Set its pool_mode to session, or name the server itself."
)
_SUPERUSER = (
    "the role {role} {fault}. Have `{remedy}` run, or name another role, with the rights that `ods grants`"
    " prints; or accept that with ODS_ALLOW_SUPERUSER=true."
)

_logger = logging.getLogger(__name__)


class DsnCheck:
    """Checks each DSN of `settings` once, as soon as its server can be reached.

    It must lead to no pooler that loses sessions, nor name a superuser. About the login that restores, the
    server is asked: only workers may be let in with it.
    """

    def __init__(self, settings: AnySettings) -> None:
        self._open: Mapping[str, _Dsn] = {dsn.variable: dsn for dsn in _dsns(settings)}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def check(self) -> None:
        """Check every DSN; one that cannot be reached is left for `keep_checking`.

        Raises:
            InvalidSettingsError: naming each variable whose DSN is refused, and why.
        """
        await self._check()
        if self._open:
            words = "Whether a pooler or a superuser is there is not known yet: %s."
            _logger.warning(words, ", ".join(self._open))

    async def keep_checking(self) -> None:
        """Go on until every DSN has been checked.

        Raises:
            InvalidSettingsError: as `check` does.
        """
        while self._open:
            await asyncio.sleep(_AGAIN_SECONDS)
            await self._check()

    async def _check(self) -> None:
        found = await asyncio.gather(*map(self._refusals, self._open.values()))
        known = dict(zip(self._open, found, strict=True))
        self._open = {name: dsn for name, dsn in self._open.items() if known[name] is None}
        refused = [refusal for refusals in found for refusal in refusals or ()]
        if refused:
            raise InvalidSettingsError("\n".join(refused))

    async def _refusals(self, dsn: "_Dsn") -> Sequence[str] | None:
        """Why the DSN is refused; None if that cannot be found out now."""
        try:
            async with self._slots, asyncio.timeout(_SECONDS):
                return await dsn.refusals()
        except asyncpg.PostgresError as error:
            return [f"{dsn.variable}: {_POOLER}"] if STATEMENT_MODE in str(error) else None
        except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            return None


@dataclass(frozen=True)
class _Dsn:
    """A DSN.

    Attributes:
        variable: where it is set.
        dsn: its value.
        others: further roles that the server is asked about, by the places where they are set.
        allows_superusers: whether a superuser may be one of these.
    """

    variable: str
    dsn: SecretStr
    others: Mapping[str, str]
    allows_superusers: bool

    async def refusals(self) -> Sequence[str]:
        dsn = self.dsn.get_secret_value()
        async with client(dsn) as first:
            if not await keeps_session(first, dsn):
                return [f"{self.variable}: {_POOLER}"]
            if self.allows_superusers:
                return ()
            found = await superusers(first, list(self.others))
        return [
            f"{self.others.get(role, self.variable)}: "
            + _SUPERUSER.format(role=role, fault=IS_SUPERUSER, remedy=remedy)
            for role, remedy in found.items()
        ]


def _dsns(settings: AnySettings) -> Iterator[_Dsn]:
    """Every DSN that API and workers connect to."""
    for tenant, own in settings.tenants.items():
        place = f"ODS_TENANTS: {tenant}: " if settings.multi_tenant else ""

        def variable(field: str, place: str = place) -> str:
            return f"{place}{field}" if place else f"ODS_{field.upper()}"

        restoring = {} if own.restore_dsn is None else {login_of(own.restore_dsn): variable("restore_dsn")}
        yield _Dsn(variable("admin_dsn"), own.admin_dsn, {}, own.allow_superuser)
        yield _Dsn(variable("master_dsn"), own.master_dsn, restoring, own.allow_superuser)
