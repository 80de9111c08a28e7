"""What the page *Recovery* shows: where registry and server contradict each other, and the plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, assert_never

from fastapi import Depends

from api.dependencies import RecoveryDep, ServerLooksDep
from ods.console.texts import t
from ods.databases.errors import DatabaseFaultError
from ods.recovery.compare.findings import Drift, DriftKind, Remedy, RemedyAction
from ods.recovery.plan import Plan, Question, RecoveryStep
from ods.recovery.recovery import Outcome

CONFIRM = "confirm"
"""The field that is ticked if the registry goes on, though it was copied or moved."""
_ACCEPT_STORE = "accept_store"
"""The field that is ticked if it goes on with the store of backups."""
_CHOICE = "choose-"
"""How the fields begin that have the database of an instance."""
_MOST_CHOICES = 12
"""A form has at most 20 fields; what else is to be decided is asked after these."""


_BY_HAND = (DriftKind.DATABASE_WITHOUT_INSTANCE, DriftKind.STORE_SHARED)
"""The kinds of findings that say for themselves what an operator does by hand."""


@dataclass(frozen=True)
class RemedyLink:
    """How a contradiction is settled by a request.

    Attributes:
        path: the page of the console for it; None if its data would be lost, which takes the command.
        database: the field of the page's query; None if it has none.
        button: what is written on the link to the page.
        command: the same on the command line.
    """

    path: str | None
    database: str | None
    button: str
    command: str


@dataclass(frozen=True)
class Finding:
    """One contradiction.

    Attributes:
        drift: what was found.
        title: its kind, in words.
        remedy: the request that settles it; None if the operator must do it by hand.
        by_hand: what the operator can do by hand.
    """

    drift: Drift
    title: str
    remedy: RemedyLink | None
    by_hand: str


@dataclass(frozen=True)
class RecoveryPage:
    """What the page shows.

    Attributes:
        at: when registry and server were compared, in UTC.
        findings: the contradictions.
        plan: what a recovery does, or what it has left; why that is not known, if the server cannot be read.
        store: what is to be decided about the store of backups; None if nothing.
        chosen: the databases that the operator has chosen.
        outcome: what the recovery has done that was requested; None if none was.
    """

    at: datetime
    findings: Sequence[Finding]
    plan: Plan | str
    store: str | None
    chosen: Sequence[str] = ()
    outcome: Outcome | None = None

    @property
    def may_recover(self) -> bool:
        """Whether a recovery has anything to do."""
        plan = self.plan
        return not isinstance(plan, str) and bool(
            plan.steps or plan.questions or plan.confirmation or self.store
        )

    @property
    def kept(self) -> Mapping[str, str]:
        """The fields of the choices by which steps are left: without them, they would be asked again."""
        steps = () if isinstance(self.plan, str) else self.plan.steps
        left = {step.database for step in steps}.intersection(self.chosen)
        return {f"{self.field(number)}-left": name for number, name in enumerate(sorted(left), start=1)}

    @staticmethod
    def field(number: int) -> str:
        """The name of the field that answers the question with this number."""
        return f"{_CHOICE}{number}"

    @property
    def questions(self) -> Sequence[Question]:
        """What is asked now."""
        asked = () if isinstance(self.plan, str) else self.plan.questions
        return asked[: max(_MOST_CHOICES - len(self.kept), 0)]

    @property
    def obstacles(self) -> Mapping[RecoveryStep, str]:
        """Why steps could not be carried out."""
        return {one.step: one.reason for one in self.outcome.refused} if self.outcome else {}


class RecoveryView:
    """Reads what the page shows, and recovers."""

    def __init__(self, looks: ServerLooksDep, recovery: RecoveryDep) -> None:
        self._looks = looks
        self._recovery = recovery

    async def page(self, form: Mapping[str, str]) -> RecoveryPage:
        """What the last look has found, or one that begins now if there was none; and the plan as it is now.

        Args:
            form: what was chosen and sent, if that was refused.

        Raises:
            DatabaseFaultError: the server cannot be read, and was not before.
        """
        try:
            plan: Plan | str = await self._recovery.plan()
        except DatabaseFaultError as fault:
            plan = fault.reason
        return await self._page(plan, _chosen(form))

    async def recover(self, form: Mapping[str, str]) -> RecoveryPage:
        """Carry the plan out as it is chosen in the form, and compare registry and server again.

        Raises:
            InvalidError: one of the databases is no instance's.
            InstallationNotConfirmedError: it is not ticked that the registry goes on, or it may not.
            BackupFaultError: the store of backups cannot be accepted.
            DatabaseFaultError: the server cannot be read.
        """
        chosen = _chosen(form)
        says = {"is_confirmed": CONFIRM in form, "accepts_store": _ACCEPT_STORE in form}
        outcome = await self._recovery.apply(chosen, **says)
        await self._looks.look_at_installation()
        await self._looks.look_for_drift()
        return await self._page(outcome.plan, chosen, outcome)

    async def look_again(self) -> None:
        """Compare registry and server now.

        Raises:
            DatabaseFaultError: the server cannot be read.
        """
        await self._looks.look_for_drift()

    async def _page(
        self, plan: Plan | str, chosen: Sequence[str], outcome: Outcome | None = None
    ) -> RecoveryPage:
        seen = self._looks.drift or await self._looks.look_for_drift()
        store = (await self._recovery.identity()).store
        return RecoveryPage(seen.at, [_finding(drift) for drift in seen.found], plan, store, chosen, outcome)


RecoveryViewDep = Annotated[RecoveryView, Depends()]


def _chosen(form: Mapping[str, str]) -> Sequence[str]:
    return [form[name] for name in form if name.startswith(_CHOICE)]


def _finding(drift: Drift) -> Finding:
    remedy = None if drift.remedy is None else _link(drift.remedy)
    return Finding(drift, t(f"drift.{drift.kind}"), remedy, _by_hand(drift.kind))


def _by_hand(kind: DriftKind) -> str:
    if kind in _BY_HAND:
        return t(f"drift.by_hand.{kind}")
    return t("drift.by_hand")


def _link(remedy: Remedy) -> RemedyLink:
    return RemedyLink(_path(remedy), remedy.database, t(f"drift.remedy.{remedy.action}"), remedy.command)


def _path(remedy: Remedy) -> str | None:
    match remedy.action:
        case RemedyAction.ADOPT:
            return f"/instances/{remedy.instance_id}/adopt"
        case RemedyAction.UNDELETE:
            return f"/trash/{remedy.instance_id}/undelete"
        case RemedyAction.RECOVER:
            return "/recovery#plan"
        case RemedyAction.PURGE | RemedyAction.RESTORE:
            return None
        case _:
            assert_never(remedy.action)
