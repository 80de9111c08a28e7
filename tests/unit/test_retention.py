"""How long scheduled backups stay."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from ods.registry.backups.retention import Covered, expiries
from ods.settings.schedule_settings import KeptBackups

KEPT = KeptBackups(daily=7, weekly=4, monthly=12)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def made(*texts: str) -> list[Covered]:
    """Backups of these moments, of a database that changes all the time."""
    return [Covered(at(text), at(text)) for text in texts]


def days(first: str, count: int) -> list[Covered]:
    return made(*((at(first) + timedelta(days=day)).isoformat() for day in range(count)))


def test_first_of_a_month_stays_for_months_and_others_for_weeks_or_days() -> None:
    # 2026-06-01 is a Monday.
    backups = made("2026-06-01T02:00", "2026-06-02T02:00", "2026-06-08T02:00")
    assert expiries(backups, KEPT) == [at("2027-07-01"), at("2026-06-10"), at("2026-07-13")]


def test_second_of_a_day_stays_for_a_day() -> None:
    backups = made("2026-06-02T02:00", "2026-06-02T14:00", "2026-06-03T02:00")
    assert expiries(backups, KEPT)[1] == at("2026-06-03T14:00")


@pytest.mark.parametrize("day", [date.isoformat() for date in (at("2026-02-27"), at("2027-12-30"))])
def test_never_fewer_stay_than_the_setting_says_when_there_is_one_each_day(day: str) -> None:
    backups = days(day, 800)
    ends = expiries(backups, KEPT)
    for now in (at(day) + timedelta(days=700, hours=hour) for hour in range(24)):
        left = [it.since for it, end in zip(backups, ends, strict=True) if it.since <= now < end]
        assert len({it.date() for it in left if now - it < timedelta(days=8)}) >= 7
        assert len({it.isocalendar()[:2] for it in left}) >= 4
        assert len({(it.year, it.month) for it in left}) >= 12
        assert len(left) <= 9 + 6 + 14


def test_backup_stays_as_if_it_was_made_again_when_its_database_did_not_change() -> None:
    unchanged = Covered(at("2026-06-03T02:00"), at("2026-09-02T02:00"))
    alone, before = expiries([unchanged], KEPT), expiries(made("2026-06-03T02:00"), KEPT)
    assert before == [at("2027-07-01")]
    assert alone == [at("2027-10-01")]


def test_second_of_a_day_stays_for_a_day_after_its_database_was_still_as_in_it() -> None:
    first, second = made("2026-06-02T00:00", "2026-06-02T01:00")
    backups = [first, replace(second, until=at("2026-06-02T21:00")), *made("2026-06-02T22:00")]
    for kept in (KEPT, KeptBackups(weekly=4)):
        assert expiries(backups, kept)[1] == at("2026-06-03T21:00")


def test_backup_is_not_the_first_of_a_week_in_which_the_one_before_was_still_right() -> None:
    earlier = Covered(at("2026-05-04T02:00"), at("2026-06-08T02:00"))
    changed = made("2026-06-09T02:00")
    assert expiries([earlier, *changed], KEPT) == [at("2027-07-01"), at("2026-06-17")]


def test_next_one_stays_as_well_when_the_first_of_its_day_and_week_is_damaged() -> None:
    damaged, *intact = made("2026-06-08T02:00", "2026-06-08T14:00", "2026-06-09T02:00")
    backups = [replace(damaged, next_stays=True), *intact]
    stays = KeptBackups(weekly=4)
    assert expiries(backups, stays) == [at("2026-07-13"), at("2026-07-13"), at("2026-06-10T02:00")]
    assert expiries([damaged, *intact], stays)[1] == at("2026-06-09T14:00")


def test_what_is_none_of_those_that_stay_expires_after_a_day() -> None:
    backups = made("2026-06-02T02:00", "2026-06-03T02:00")
    assert expiries(backups, KeptBackups(weekly=1)) == [at("2026-06-15"), at("2026-06-04T02:00")]


def test_month_of_another_year_is_counted_on() -> None:
    assert expiries(made("2026-12-31T23:59"), KeptBackups(monthly=1)) == [at("2027-02-01")]
    assert expiries(made("2027-01-01T00:00"), KeptBackups(monthly=12)) == [at("2028-02-01")]
