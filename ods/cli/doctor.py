"""`ods doctor`: what is wrong with an installation, and how to mend it."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ods.cli.options import DEFAULT_DATA_DIR, AsJson, DataDir, require_no_folder
from ods.cli.output import say, show_json
from ods.embedded.data_folder import DataFolder
from ods.embedded.errors import CommandError
from ods.registry.storage.rules import printable

if TYPE_CHECKING:
    from ods.doctor.findings import Finding


def doctor(*, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False) -> None:
    """Examine the whole installation, and say how to mend what is wrong; exit 1 if anything is.

    That of the settings in the environment, or else the stack that serves in the folder.
    """
    _use_settings_of_stack(data_dir)
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


def _use_settings_of_stack(data_dir: Path) -> None:
    """Have the settings of the stack in the folder, where the environment names no installation.

    Raises:
        CommandError: a folder is named in which no stack serves, or beside settings.
    """
    from ods.cli.registry_access import has_settings  # noqa: PLC0415 - as above

    if has_settings():
        require_no_folder(data_dir, "the environment another installation")
        return
    folder = DataFolder(data_dir)
    if stack := folder.running_stack():
        os.environ |= stack["settings"]
    elif data_dir != DEFAULT_DATA_DIR:
        raise CommandError(folder.why_no_stack())


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
