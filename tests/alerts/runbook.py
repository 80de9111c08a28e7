"""The commands of runbooks, as they are written, with what capital letters stand for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.alerts.rules import ROOT
from tests.alerts.site import Site

_RUNBOOKS = ROOT / "docs" / "runbooks"
USAGE = {2, 125, 126, 127}
"""Exit codes of a command that is written wrongly."""
_EXAMPLE = "ods.example.org"


@dataclass(frozen=True)
class Case:
    """What the operator knows of what is wrong.

    Attributes:
        placeholders: what words in capitals stand for, as `ID`.
        answers: what the operator types when a command asks.
        host: that of `ods.example.org`, with a port.
        mends: whether what the page says to do ends the fault; if not, that is done after the fault's end.
    """

    placeholders: Mapping[str, str] = field(default_factory=dict)
    answers: str = ""
    host: str = ""
    mends: bool = False


async def look_at(site: Site, alert: str, case: Case) -> list[str]:
    """Run what the page says to look at; returns the mistakes: what cannot be run, or tells nothing."""
    mistakes = []
    for command, _ in _commands(alert, "Look at"):
        printed = await site.shell(_filled(command, case))
        if printed.code in USAGE or not printed.text.strip():
            mistakes.append(f"{command}: exit code {printed.code}: {printed.text}")
    return mistakes


async def do(site: Site, alert: str, case: Case) -> list[str]:
    """Run what the page says to do; returns the mistakes: what fails, unless it is for another case."""
    mistakes = []
    for command, comment in _commands(alert, "Do"):
        printed = await site.shell(_filled(command, case), case.answers)
        if printed.code in USAGE or (printed.code and not comment.startswith("if ")):
            mistakes.append(f"{command}: exit code {printed.code}: {printed.text}")
    return mistakes


def _commands(alert: str, section: str) -> list[tuple[str, str]]:
    """Each command of a section, with its comment."""
    text = (_RUNBOOKS / f"{alert}.md").read_text()
    (block,) = re.findall(rf"^## {section}\n\n```sh\n(.+?)```", text, re.DOTALL | re.MULTILINE)
    parted = (line.partition("   # ") for line in block.splitlines())
    return [(command.strip(), comment) for command, _, comment in parted]


def _filled(command: str, case: Case) -> str:
    for word, meaning in case.placeholders.items():
        command = re.sub(rf"\b{word}\b(?!=)", meaning, command)
    if not case.host:
        return command
    host, _, port = case.host.partition(":")
    command = command.replace(f"https://{_EXAMPLE}", f"https://{case.host}")
    return command.replace(f"{_EXAMPLE}:443", f"{host}:{port}").replace(_EXAMPLE, host)
