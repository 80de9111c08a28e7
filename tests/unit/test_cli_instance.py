"""What destroys something asks for the name of the instance."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ods.cli import instance
from ods.embedded.errors import CommandError


class _Api:
    """An API with one instance, 7."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.drops = True
        self.versions: list[str] = []
        self.errors: dict[str, list[str]] = {}
        self.row: dict[str, Any] = {
            "id": 7,
            "name": "Grand Bend",
            "status": "Completed",
            "operation": "Create",
            "retryDropsDatabase": True,
            "deleteDropsDatabase": False,
            "jobId": "TrashInstanceJob-7-2",
        }
        self.later: dict[str, Any] = {}
        """What is otherwise when the instance is asked for once more."""

    def instances(self, **filters: int) -> Iterator[dict[str, Any]]:
        row = self.row
        self.row = row | self.later
        return iter([row] if filters == {"id": 7} else [])

    def instance(self, number: int) -> dict[str, Any]:
        return {"id": number, "deleteDropsDatabase": self.drops}

    def create(self, name: str, _: None, attributes: dict[str, Any]) -> dict[str, Any]:
        origins = ("databaseTemplate", "backupId", "copyOf")
        words = [f"{key} {attributes[key]}" for key in origins if key in attributes]
        self.done.append(" ".join(["create", name, *words]))
        return {"id": 7}

    def delete(self, number: int) -> dict[str, Any]:
        self.done.append(f"delete {number}")
        return {"id": number, "purgeAfter": None}

    def undelete(self, number: int, _: str | None) -> dict[str, Any]:
        self.done.append(f"undelete {number}")
        return {"id": number}

    def purge(self, number: int, *, final_backup: bool) -> dict[str, Any]:
        self.done.append(f"purge {number}{' after a backup' if final_backup else ''}")
        return {**self.row, "id": number}

    def plan_purge(self, number: int) -> dict[str, Any]:
        return {"instances": [{"id": number, "dropsVersions": self.versions}]}

    def purge_trash(self, number: int, *, final_backup: bool) -> dict[str, Any]:
        self.done.append(f"purge the trash {number}{' after a backup' if final_backup else ''}")
        return {"id": number}

    def id_named(self, name: str) -> int:
        return {"Grand Bend": 7, "7": 7, "8": 8}[name]

    def reset(self, number: int, origin: dict[str, Any]) -> dict[str, Any]:
        words = [f"{key} {value}" for key, value in origin.items()]
        self.done.append(" ".join(["reset", str(number), *words]))
        return {"id": number}

    def plan_reset(self, number: int, origin: dict[str, Any]) -> dict[str, Any]:
        self.done.append(f"plan {number} {origin['copyOf']}")
        planned = {"name": "Grand Bend", "databaseTemplate": "Minimal", "databaseName": "EdFi_Ods"}
        origin = {"copyOf": 8, "backupId": None, "sizeBytes": 5, "estimatedSeconds": None}
        fate = {"dropsDatabase": self.row["deleteDropsDatabase"]}
        return {"errors": self.errors, "instances": [planned | origin | fate], "freeBytes": 8_000_000}

    def undo_reset(self, number: int, database: str | None) -> dict[str, Any]:
        self.done.append(f"undo-reset {number}{f' {database}' if database else ''}")
        return {"id": number}

    def retry(self, number: int) -> dict[str, Any]:
        self.done.append(f"retry {number}")
        return {"id": number}

    def detach(self, number: int) -> dict[str, Any]:
        self.done.append(f"detach {number}")
        return {"id": number}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> _Api:
    api = _Api()

    @contextmanager
    def connect(*_: object) -> Iterator[_Api]:
        yield api

    monkeypatch.setattr(instance, "connect", connect)
    return api


_LIVE = {"purge": ["--live"]}
"""Options without which a command does nothing to an instance that was not deleted."""


@pytest.mark.parametrize("command", ["purge", "detach", "delete", "reset", "undo-reset", "retry"])
def test_nothing_is_destroyed_when_another_name_is_given(api: _Api, command: str) -> None:
    answer = CliRunner().invoke(instance.app, [command, "7", *_LIVE.get(command, [])], input="grand bend\n")
    assert isinstance(answer.exception, CommandError)
    assert "has another name" in str(answer.exception)
    assert api.done == []


@pytest.mark.parametrize("command", ["purge", "detach", "delete", "reset", "undo-reset", "retry"])
@pytest.mark.parametrize(("options", "given"), [([], "Grand Bend\n"), (["--yes"], "")])
def test_command_is_carried_out_when_the_name_is_given_or_the_operator_says_yes(
    api: _Api, command: str, options: list[str], given: str
) -> None:
    words = [command, "7", *_LIVE.get(command, []), *options]
    assert CliRunner().invoke(instance.app, words, input=given).exit_code == 0
    assert api.done == [f"{command} 7"]


@pytest.mark.parametrize(
    ("command", "when"),
    [("purge", ""), ("delete", ""), ("retry", ""), ("detach", " when its time is over")],
)
def test_databases_before_resets_are_named_when_they_go_with_the_instance(
    api: _Api, command: str, when: str
) -> None:
    words = [command, "7", *_LIVE.get(command, [])]
    said = "What it had before resets is dropped as well"
    assert said not in CliRunner().invoke(instance.app, words, input="Grand Bend\n").output
    api.versions = ["ods_trash_1", "ods_trash_2"]
    asked = CliRunner().invoke(instance.app, words, input="Grand Bend\n")
    assert f"{said}{when}: ods_trash_1, ods_trash_2. Type the name" in asked.output


def test_failed_job_is_done_again_without_a_question_when_it_drops_nothing(api: _Api) -> None:
    api.row |= {"retryDropsDatabase": False}
    assert CliRunner().invoke(instance.app, ["retry", "7"]).exit_code == 0
    assert api.done == ["retry 7"]


@pytest.mark.parametrize("given", ["7", "Grand Bend"])
def test_instance_that_was_not_deleted_is_not_purged_unless_live_ones_are_meant(
    api: _Api, given: str
) -> None:
    refused = CliRunner().invoke(instance.app, ["purge", given, "--yes"])
    assert "7 (Grand Bend) is not in the trash" in str(refused.exception)
    assert "--live" in str(refused.exception)
    assert api.done == []


def test_named_database_comes_back_when_the_operator_names_one(api: _Api) -> None:
    command = ["undo-reset", "7", "--database", "ods_trash_1_2", "--yes"]
    assert CliRunner().invoke(instance.app, command).exit_code == 0
    assert api.done == ["undo-reset 7 ods_trash_1_2"]


@pytest.mark.parametrize(
    ("status", "operation"), [("Deleted", "Delete"), ("Deleted", "Undelete"), ("Delete_Failed", "Purge")]
)
@pytest.mark.parametrize(("options", "given"), [([], "Grand Bend\n"), (["--yes"], "")])
def test_only_the_trash_is_purged_when_the_instance_was_there(
    api: _Api, status: str, operation: str, options: list[str], given: str
) -> None:
    api.row |= {"status": status, "operation": operation}
    assert CliRunner().invoke(instance.app, ["purge", "7", *options], input=given).exit_code == 0
    assert api.done == ["purge the trash 7"]


@pytest.mark.parametrize("command", ["purge", "detach", "delete", "reset", "undo-reset", "retry"])
def test_nothing_is_destroyed_when_another_job_has_begun_before_the_name_is_given(
    api: _Api, command: str
) -> None:
    api.later = {"jobId": "TrashInstanceJob-7-4"}
    words = [command, "7", *_LIVE.get(command, [])]
    refused = CliRunner().invoke(instance.app, words, input="Grand Bend\n")
    assert "Another job of the instance 7 (Grand Bend) has begun" in str(refused.exception)
    assert api.done == []


@pytest.mark.parametrize("status", ["Completed", "Deleted"])
def test_backup_is_made_first_when_a_purge_is_to_have_one(api: _Api, status: str) -> None:
    api.row |= {"status": status}
    words = ["purge", "7", "--yes", "--live", "--final-backup"]
    assert CliRunner().invoke(instance.app, words).exit_code == 0
    place = "the trash 7" if status == "Deleted" else "7"
    assert api.done == [f"purge {place} after a backup"]


def test_instance_is_reset_to_another_template_when_it_is_named(api: _Api) -> None:
    options = ["reset", "Grand Bend", "--template", "Sample", "--yes"]
    assert CliRunner().invoke(instance.app, options).exit_code == 0
    assert api.done == ["reset 7 databaseTemplate Sample"]


def test_no_origin_is_named_when_an_instance_is_reset_to_its_own_template(api: _Api) -> None:
    assert CliRunner().invoke(instance.app, ["reset", "7", "--yes"]).exit_code == 0
    assert api.done == ["reset 7"]


def test_instance_is_reset_to_a_copy_or_a_backup_when_one_is_named(api: _Api) -> None:
    copy = ["reset", "Grand Bend", "--copy-of", "8", "--mode", "closed", "--yes"]
    assert CliRunner().invoke(instance.app, copy).exit_code == 0
    assert CliRunner().invoke(instance.app, ["reset", "7", "--backup", "b1", "--yes"]).exit_code == 0
    assert api.done == ["reset 7 mode closed copyOf 8", "reset 7 backupId b1"]


def test_nothing_is_asked_for_and_nothing_done_when_a_reset_is_only_planned(api: _Api) -> None:
    planned = CliRunner().invoke(instance.app, ["reset", "7", "--copy-of", "8", "--dry-run"])
    assert planned.exit_code == 0
    assert ("Grand Bend" in planned.stdout, "8000000 bytes are free" in planned.output) == (True, True)
    api.errors = {"Id": ["It is protected."], "CopyOf": ["There is none."]}
    refused = CliRunner().invoke(instance.app, ["reset", "7", "--copy-of", "8", "--dry-run"])
    assert str(refused.exception).splitlines() == ["It is protected.", "There is none."]
    assert api.done == ["plan 7 8", "plan 7 8"]


@pytest.mark.parametrize("command", ["reset", "undo-reset"])
@pytest.mark.parametrize(
    ("drops", "said"),
    [
        (True, "The database that it has now will be dropped, and cannot come back."),
        (False, "The database that it has now goes to the trash, from which `undo-reset` brings it back."),
    ],
)
def test_what_becomes_of_the_database_of_now_is_said_when_a_reset_or_its_undo_replaces_it(
    api: _Api, *, command: str, drops: bool, said: str
) -> None:
    api.row |= {"deleteDropsDatabase": drops}
    asked = CliRunner().invoke(instance.app, [command, "7"], input="Grand Bend\n")
    assert f"is replaced. {said} Type the name of the instance 7" in asked.output
    assert api.done == [f"{command} 7"]
    helped = CliRunner().invoke(instance.app, [command, "--help"], terminal_width=200)
    assert "ODS_TRASH_DAYS is 0" in helped.output


@pytest.mark.parametrize(("drops", "said"), [(True, "cannot come back."), (False, "goes to the trash")])
def test_what_becomes_of_the_database_of_now_is_said_when_a_reset_is_only_planned(
    api: _Api, *, drops: bool, said: str
) -> None:
    api.row |= {"deleteDropsDatabase": drops}
    planned = CliRunner().invoke(instance.app, ["reset", "7", "--copy-of", "8", "--dry-run"])
    assert said in planned.output
    as_json = CliRunner().invoke(instance.app, ["reset", "7", "--copy-of", "8", "--dry-run", "--json"])
    assert json.loads(as_json.output)["instances"][0]["dropsDatabase"] is drops


def test_no_name_is_asked_for_when_a_deleted_instance_can_come_back(api: _Api) -> None:
    api.drops = False
    assert CliRunner().invoke(instance.app, ["delete", "7"]).exit_code == 0
    assert api.done == ["delete 7"]


def test_others_are_purged_when_the_name_of_one_is_wrong_or_unknown(api: _Api) -> None:
    given = "Grand Bend\nanother\n"
    answer = CliRunner().invoke(instance.app, ["purge", "--live", "7", "Grand Bend", "8"], input=given)
    assert str(answer.exception).splitlines() == [
        "Grand Bend: The instance 7 has another name. Nothing was done.",
        "8: There is no instance 8.",
    ]
    assert api.done == ["purge 7"]


def test_new_name_is_refused_when_several_instances_are_to_come_back(api: _Api) -> None:
    answer = CliRunner().invoke(instance.app, ["undelete", "7", "8", "--name", "Ridge"])
    assert str(answer.exception) == "--name is for one instance."
    assert api.done == []


def test_there_is_no_name_to_ask_for_when_there_is_no_such_instance(api: _Api) -> None:
    answer = CliRunner().invoke(instance.app, ["purge", "8"], input="Grand Bend\n")
    assert "no instance 8" in str(answer.exception)
    assert api.done == []


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["made", "dry run"])
@pytest.mark.parametrize(
    "option",
    [
        ["--protected"],
        ["--unprotected"],
        ["--template", "Sample"],
        ["--copy-of", "7"],
        ["--mode", "closed"],
        ["--label", "pilot=yes"],
        ["--context", "schoolYear=2027"],
        ["--description", ""],
        ["--backup", "7f2a7b1e-52f4-4f3c-8a43-0e8d7f4f3f12"],
    ],
    ids=lambda option: option[0],
)
def test_no_file_is_read_when_an_option_says_what_only_its_lines_can(
    api: _Api, option: list[str], dry: list[str], tmp_path: Path
) -> None:
    words = ["create", "--from-csv", str(tmp_path / "instances.csv"), *option, *dry]
    answer = CliRunner().invoke(instance.app, words)
    assert isinstance(answer.exception, CommandError)
    assert "the file says all about each instance" in str(answer.exception)
    assert api.done == []


@pytest.mark.parametrize(
    ("options", "origin"),
    [
        ([], "databaseTemplate Minimal"),
        (["--mode", "closed"], "databaseTemplate Minimal"),
        (["--template", ""], "databaseTemplate "),
        (["--backup", ""], "backupId "),
        (["--copy-of", "Grand Bend"], "copyOf 7"),
    ],
    ids=str,
)
def test_instance_is_of_minimal_only_when_no_origin_is_named_for_it(
    api: _Api, options: list[str], origin: str
) -> None:
    assert CliRunner().invoke(instance.app, ["create", "New", *options]).exit_code == 0
    assert api.done == [f"create New {origin}"]
