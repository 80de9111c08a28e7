"""The alerts of `deploy/monitoring/rules.yml`, sooner: minutes become seconds, and nothing else changes."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "monitoring" / "rules.yml"

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_WINDOW = re.compile(r"(?<=\[|\s)(?P<number>\d+)(?P<unit>[smhd])(?=\]|\)|\s)")
# What is compared with an age that follows from intervals of the settings, which are divided as well.
_AGE = re.compile(r"((?:pending_oldest|schedule_age)_seconds(?:\{[^}]*\})?\)) > ([\d *]+\d)")


def alerts() -> list[str]:
    """The names of all alerts, in the order of the file."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule]


def shortened(factor: float) -> dict[str, Any]:
    """The rules, with windows, offsets, `for` and the ages that are compared divided by `factor`."""
    content: dict[str, Any] = yaml.safe_load(RULES.read_text())
    for group in content["groups"]:
        for rule in group["rules"]:
            windows = _WINDOW.sub(
                lambda found: _divided(found["number"], found["unit"], factor), rule["expr"]
            )
            rule["expr"] = _AGE.sub(rf"\1 > (\2) / {factor:g}", windows)
            if "for" in rule:
                rule["for"] = _divided(rule["for"][:-1], rule["for"][-1], factor)
    return content


def _divided(number: str, unit: str, factor: float) -> str:
    return f"{round(1000 * int(number) * _SECONDS[unit] / factor)}ms"
