"""`ods doctor`: what is wrong with an installation, and how to mend it."""

import asyncio
from typing import TYPE_CHECKING

import typer

from ods.cli.options import AsJson
from ods.cli.output import say, show_json
from ods.registry.storage.rules import printable

if TYPE_CHECKING:
    from ods.doctor.findings import Finding


def doctor(*, as_json: AsJson = False) -> None:
    """Examine the whole installation, and say how to mend what is wrong; exit 1 if anything is."""
    # Imported here: it takes half a second, which other commands need not wait for.
    from ods.doctor.findings import Level  # noqa: PLC0415

    findings = _findings()
    if as_json:
        show_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            say(_line(finding))
    if any(finding.level is Level.FAULT for finding in findings):
        raise typer.Exit(1)


def _findings() -> "list[Finding]":
    from ods.doctor.examination import examine  # noqa: PLC0415 - as above
    from ods.doctor.findings import fault  # noqa: PLC0415 - as above
    from ods.settings.settings import InvalidSettingsError, load_settings  # noqa: PLC0415 - as above

    try:
        return asyncio.run(examine(load_settings()))
    except InvalidSettingsError as error:
        remedy = "docs/settings.md has every setting; env.example begins a file of them"
        return [fault("settings", line, remedy) for line in str(error).splitlines()]


def _line(finding: "Finding") -> str:
    remedy = f"\n    {printable(finding.remedy)}" if finding.remedy is not None else ""
    return f"{finding.level.sign} {printable(finding.subject)}: {printable(finding.found)}{remedy}"
