"""What charts draw where, and what stands at their lines."""

from datetime import date, timedelta
from itertools import pairwise

import pytest

from ods.console.charts import Column, Mark, Segment, column_chart, line_chart, spread_chart
from ods.console.formats import size
from ods.console.views.trends import thinned
from ods.registry.instances.sizes import SizeOfDay

DAY = date(2026, 11, 26)


def days(*values: int) -> list[tuple[date, int]]:
    return [(DAY + timedelta(days=number), value) for number, value in enumerate(values)]


def written(value: float) -> str:
    return f"{value:.0f}"


@pytest.mark.parametrize("values", [(), (7,)])
def test_no_line_is_drawn_when_there_are_no_two_days(values: tuple[int, ...]) -> None:
    assert line_chart(days(*values), written) is None


def test_a_line_leads_from_value_to_value_when_days_are_missing() -> None:
    first, _, third, last = days(0, 0, 150, 300)
    chart = line_chart([first, third, last], written)
    assert chart is not None
    one, other = chart.segments
    assert one == Segment(11.0, 180, 69.67, 100)
    assert other == Segment(69.67, 100, 99.0, 20)
    assert chart.end == (99.0, 20)
    assert chart.marks == [Mark(126.7, "100"), Mark(73.3, "200"), Mark(20.0, "300")]


@pytest.mark.parametrize("most", [0, 1, 2, 3, 7, 99, 101, 812_345_678, 5_000_000_000_001])
def test_lines_are_at_round_values_up_to_the_highest_when_values_grow(most: int) -> None:
    chart = line_chart(days(0, most), written)
    assert chart is not None
    values = [int(mark.text) for mark in chart.marks]
    assert 1 <= len(values) <= 3
    assert values[-1] >= most
    assert all(str(value).rstrip("0") in {"1", "2", "3", "4", "5", "6", "15"} for value in values)
    assert chart.marks[-1].at == 20
    assert chart.end[1] == pytest.approx(180 - 160 * most / values[-1], abs=0.1)


def test_lines_tell_sizes_when_the_chart_is_one_of_sizes() -> None:
    chart = line_chart(days(700_000_000, 812_345_678), lambda value: size(round(value)))
    assert chart is not None
    assert [mark.text for mark in chart.marks] == ["500 MB", "1 GB"]


def test_no_column_is_drawn_when_all_days_are_empty() -> None:
    assert column_chart([]) is None
    assert column_chart([Column({"good": 0}, {"bad": 0})] * 30) is None


def test_columns_stand_on_zero_and_hang_from_it_when_a_day_has_both() -> None:
    chart = column_chart([Column({"good": 6, "busy": 3}, {"bad": 3}), Column({"good": 0}, {"bad": 0})])
    assert chart is not None
    good, busy, bad = chart.blocks
    assert (good.tone, busy.tone, bad.tone) == ("good", "busy", "bad")
    assert good.y + good.height == pytest.approx(chart.base)
    assert busy.y + busy.height == pytest.approx(good.y)
    assert bad.y == chart.base
    assert good.height == pytest.approx(2 * bad.height, abs=0.2)
    assert busy.height == bad.height
    assert chart.left < good.x < good.x + good.width < 55  # the other half is that of the other day
    assert [mark.text for mark in chart.marks] == ["5", "5", "10"]
    assert {mark.at > chart.base for mark in chart.marks[:1]} == {True}


def test_one_failure_is_seen_when_thousands_of_jobs_were_completed() -> None:
    chart = column_chart([Column({"good": 10_000}, {"bad": 1})])
    assert chart is not None
    assert [block.height >= 2 for block in chart.blocks] == [True, True]


@pytest.mark.parametrize("most", [1, 2, 30, 31, 999])
def test_columns_stay_within_the_chart_when_they_are_high(most: int) -> None:
    chart = column_chart([Column({"good": number}, {"bad": most - number}) for number in range(most + 1)])
    assert chart is not None
    assert all(block.y >= 19 and block.y + block.height <= 182 for block in chart.blocks)
    assert all(block.x >= 0 and block.x + block.width <= 100 for block in chart.blocks)
    assert all(one.at - other.at >= 15 for one, other in pairwise(chart.marks))


def test_no_duration_is_drawn_when_no_job_was_completed() -> None:
    assert spread_chart({}) is None


def test_durations_lie_between_round_times_when_jobs_took_longer_and_longer() -> None:
    chart = spread_chart({"Create": [0.6, 1.0, 4.2], "Backup": [10.0, 65.0, 700.0]})
    assert chart is not None
    assert [mark.text for mark in chart.marks] == ["100 ms", "1 s", "10 s", "1 min", "10 min", "1 h"]
    create, backup = chart.rows
    assert (create.name, backup.name) == ("Create", "Backup")
    assert create.at[1] == chart.marks[1].at
    assert backup.at[0] == chart.marks[2].at
    for row in chart.rows:
        assert list(row.at) == sorted(row.at)
        assert row.y < chart.base


@pytest.mark.parametrize("seconds", [0.0, 0.001, 1.0, 864_000.0, 1e9])
def test_durations_stay_within_the_chart_when_they_are_very_short_or_long(seconds: float) -> None:
    chart = spread_chart({"Create": [seconds] * 3})
    assert chart is not None
    assert len(chart.marks) == 2
    assert all(1 <= place <= 99 for place in chart.rows[0].at)


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (1, 1), (61, 61), (62, 31), (366, 61)])
def test_sizes_at_equal_distances_are_shown_when_there_are_many(count: int, shown: int) -> None:
    sizes = [SizeOfDay(day, value) for day, value in days(*range(count))]
    found = thinned(sizes)
    assert len(found) == shown
    assert found[-1:] == sizes[-1:]
    assert len({other.day - one.day for one, other in pairwise(found)}) <= 1
