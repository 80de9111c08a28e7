"""Which installation a registry is, and what it and the server say of that: the facts of both sides."""

from collections.abc import Sequence
from dataclasses import dataclass

from ods.databases.errors import DatabaseFaultError
from ods.databases.server import Server
from ods.registry.installation import InstallationState, InstallationStore
from ods.tenants.installation_check import InstallationCheck, OtherInstallation, SameInstallation


@dataclass(frozen=True)
class Standing:
    """What registry and server say of one tenant's installation.

    Attributes:
        state: the registry's installation.
        system: the server's system identifier; None while it cannot be reached.
        databases: how many databases on the server are the installation's, by their comments.
        others: other installations that have databases on the server.
        obstacle: why nothing may be changed; None if it may.
        same: another tenant whose registry has the same id.
        unasked: other tenants whose registry has not said which installation it is.
    """

    state: InstallationState
    system: str | None
    databases: int
    others: Sequence[OtherInstallation]
    obstacle: str | None
    same: SameInstallation | None
    unasked: Sequence[str]

    @property
    def id(self) -> str:
        """The installation's id."""
        return self.state.id

    @property
    def registry(self) -> str:
        """Where the registry is."""
        return str(self.state.here)

    @property
    def confirmed_registry(self) -> str:
        """Where it was when it was first used, or last confirmed."""
        return str(self.state.confirmed)

    @property
    def server(self) -> str:
        """The server's system identifier, for people."""
        return self.system or "cannot be reached"

    @property
    def confirmed_server(self) -> str | None:
        """System identifier of the server that the installation has worked on; None if none yet."""
        return self.state.server

    @property
    def other_installations(self) -> Sequence[OtherInstallation]:
        """Other installations that have databases on the server."""
        return self.others

    @property
    def confirmed_installations(self) -> Sequence[str]:
        """Installations that the operator has confirmed to be there as well, or that are other tenants."""
        return sorted(self.state.neighbours)

    @property
    def why_no_copy(self) -> str | None:
        """Why the registry may not become an installation of its own; None if it may.

        The original could not manage its databases any more.
        """
        if self.same is not None and self.same.is_same_registry:
            return self.same.obstacle
        if self.state.obstacle is not None or (self.same is not None and not self.same.is_copy):
            return None
        if self.system is None:
            return "Start the server of ODS_MASTER_DSN: its databases tell whether this is a copy."
        if self.databases:
            return (
                f"The registry is where it was confirmed, and {self.databases} databases on the server are"
                " its own: this is no copy. It could not manage them any more, so nothing was done. Only if"
                " the whole server is a copy as well, do what docs/operations/staging-copy.md says: the"
                " marks are taken off the databases first."
            )
        return None


async def read_standing(store: InstallationStore, check: InstallationCheck, server: Server) -> Standing:
    """What registry and server say now; nothing but a first use of the registry is recorded."""
    state, same = await store.state(), await check.same_installation()
    try:
        async with server.session() as session:
            return Standing(
                state,
                await check.system(session),
                await check.count_own(session),
                await check.described_others(session),
                await check.obstacle(session),
                same,
                check.unasked,
            )
    except DatabaseFaultError:
        known = same.obstacle if same is not None else None
        return Standing(state, None, 0, [], state.obstacle or known, same, check.unasked)
