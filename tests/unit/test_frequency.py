"""How often an instance takes part in a schedule."""

from datetime import datetime

import pytest

from ods.registry.schedules.frequency import BACKUP_LABEL, Frequency, frequency_of, is_wanted

SUNDAY = datetime.fromisoformat("2026-06-07T02:00")
MONDAY = datetime.fromisoformat("2026-06-08T00:00")
LATER = datetime.fromisoformat("2026-06-08T12:00")


@pytest.mark.parametrize(
    ("labels", "frequency"),
    [
        (None, Frequency.EACH_TIME),
        ({}, Frequency.EACH_TIME),
        ({"snapshot": "never"}, Frequency.EACH_TIME),
        ({"backup": ""}, Frequency.EACH_TIME),
        ({"backup": "Never"}, Frequency.EACH_TIME),
        ({"backup": "monthly"}, Frequency.EACH_TIME),
        ({"backup": "daily", "district": "1"}, Frequency.DAILY),
        ({"backup": "weekly"}, Frequency.WEEKLY),
        ({"backup": "never"}, Frequency.NEVER),
    ],
)
def test_label_says_how_often(labels: dict[str, str] | None, frequency: Frequency) -> None:
    assert frequency_of(labels, BACKUP_LABEL) is frequency


@pytest.mark.parametrize(
    ("frequency", "due_at", "last", "wanted"),
    [
        (Frequency.EACH_TIME, MONDAY, MONDAY, True),
        (Frequency.NEVER, MONDAY, None, False),
        (Frequency.DAILY, MONDAY, None, True),
        (Frequency.DAILY, MONDAY, SUNDAY, True),
        (Frequency.DAILY, LATER, MONDAY, False),
        (Frequency.WEEKLY, SUNDAY, None, True),
        (Frequency.WEEKLY, MONDAY, SUNDAY, True),
        (Frequency.WEEKLY, LATER, MONDAY, False),
        (Frequency.WEEKLY, datetime.fromisoformat("2026-06-14T23:59"), MONDAY, False),
        (Frequency.WEEKLY, datetime.fromisoformat("2026-06-15T00:00"), LATER, True),
    ],
)
def test_instance_takes_part_once_a_day_or_week(
    frequency: Frequency,
    due_at: datetime,
    last: datetime | None,
    wanted: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    assert is_wanted(frequency, due_at, last) is wanted
