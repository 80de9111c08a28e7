"""Plots of the results."""

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.measurement import Chart, Measurement
from benchmarks.report import Section

_WIDTH = 10
_BARE, _SERVICE = "#9aa5b1", "#1f77b4"
_MAX_MARKED_POINTS = 20
"""So many points are marked on their curve."""
_LEAST_MS = 0.1
"""A logarithmic axis has no zero, and differences may be negative."""


def draw(folder: Path, section: Section) -> None:
    """Write the section's durations as boxes, and its charts, as PNG files."""
    findings = section.findings
    if findings is None:
        return
    durations = [it for it in findings.measurements if it.unit == "ms"]
    if durations:
        _save(_boxes(section.title, durations), folder / f"{section.name}.png")
    for number, chart in enumerate(findings.charts, start=1):
        _save(_curves(chart), folder / f"{section.name}-{number}.png")


def _boxes(title: str, durations: list[Measurement]) -> Figure:
    """From p5 to p95, with the quartiles as box and the median as line; bare costs are grey."""
    figure = Figure(figsize=(_WIDTH, 1.5 + 0.35 * len(durations)), layout="constrained")
    axes = figure.subplots()
    bares = {id(it.bare) for it in durations}
    boxes = axes.boxplot(
        [[max(value, _LEAST_MS) for value in it.values] for it in durations],
        orientation="horizontal",
        whis=(5, 95),
        widths=0.6,
        patch_artist=True,
        medianprops={"color": "black"},
        tick_labels=[it.name for it in durations],
        flierprops={"markersize": 3},
    )
    for it, box in zip(durations, boxes["boxes"], strict=True):
        box.set_facecolor(_BARE if id(it) in bares else _SERVICE)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.invert_yaxis()
    axes.set_xlabel("ms (box: quartiles; line: p5 to p95; grey: what the ratios refer to)")
    axes.set_title(title, loc="left")
    axes.grid(axis="x", alpha=0.3)
    return figure


def _curves(chart: Chart) -> Figure:
    figure = Figure(figsize=(_WIDTH, 5), layout="constrained")
    axes = figure.subplots()
    for name, points in chart.curves.items():
        axes.plot(
            *zip(*points, strict=True), label=name, marker="." if len(points) <= _MAX_MARKED_POINTS else None
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    axes.set_title(chart.title, loc="left")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=120)
