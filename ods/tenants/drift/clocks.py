"""Where clocks contradict each other, or no pass ran for long."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from ods.registry.clock import CLOCKS_MAY_DIFFER, TimeGap
from ods.tenants.drift.findings import Drift, DriftKind
from ods.tenants.drift.snapshot import Snapshot


def wrong_clocks(seen: Snapshot) -> Iterator[Drift]:
    """Clocks that differ by more than five minutes, and a time in which no pass ran."""
    if abs(seen.clock_lead) > CLOCKS_MAY_DIFFER:
        yield _clocks_differ("registry and server", "the server of the ODS databases", seen.clock_lead)
    elif abs(seen.own_lead) > CLOCKS_MAY_DIFFER:
        yield _clocks_differ("registry and process", "the machine that compares them", seen.own_lead)
    if seen.time_gap is not None:
        yield _time_gap(seen.time_gap)


def _clocks_differ(subject: str, other: str, lead: timedelta) -> Drift:
    by = timedelta(seconds=round(abs(lead).total_seconds()))
    which = "ahead of" if lead > timedelta() else "behind"
    return Drift(
        DriftKind.CLOCKS_DIFFER,
        subject,
        f"The registry's clock is {by} (hours, minutes, seconds) {which} that of {other}. It decides when an"
        " instance in the trash is due: nothing is purged before both agree within five minutes. Let both"
        " take the time from one source (NTP).",
    )


def _time_gap(gap: TimeGap) -> Drift:
    return Drift(
        DriftKind.TIME_GAP,
        "registry",
        f"From {_minute(gap.last_seen)} to {_minute(gap.seen_again)}, by the registry's clock, no pass ran:"
        " no worker did, the registry was restored, or that clock was set ahead. Nothing is purged from the"
        f" trash, and no backup expires, before {_minute(gap.forgotten_at)}. Set the clock right before then,"
        " or undelete what must not go.",
    )


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
