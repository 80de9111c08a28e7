"""`ods recover`: the registry follows the server, after one of both was restored to an earlier state."""

from collections.abc import Sequence
from typing import Annotated

import typer

from ods.cli.api_access import connect
from ods.cli.client import AdminApi, Json
from ods.cli.options import DEFAULT_DATA_DIR, ApiUrl, AsJson, DataDir, Yes
from ods.cli.output import say, show_json, show_list
from ods.embedded.errors import CommandError

_DRIFT = {"kind": "KIND", "subject": "SUBJECT", "explanation": "EXPLANATION"}


def recover(  # noqa: PLR0913 - a command line's options
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Do it, after asking.")] = False,
    choose: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DATABASE",
            help="That its instance had this database last, where the plan asks; can be repeated.",
            show_default=False,
        ),
    ] = None,
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm",
            help="With --yes: that no other service works on the original of this registry.",
        ),
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Bring the registry in step with the server, after a restore; exit 1 if anything is left.

    No database is dropped or overwritten. Without --apply, only the plan is shown.
    """
    chosen = choose or []
    with connect(api_url, data_dir) as api:
        plan = api.recovery_plan(chosen)
        if not apply:
            _show_plan(plan, as_json=as_json)
            is_left = _is_left(plan)
        else:
            if not yes:
                _ask(plan, quietly=as_json)
            elif plan["confirmation"] is not None and not confirm:
                raise CommandError(f"{plan['confirmation']} Add --confirm if it goes on here.")
            is_left = _apply(api, chosen, is_confirmed=plan["confirmation"] is not None, as_json=as_json)
    if is_left:
        raise typer.Exit(1)


def _ask(plan: Json, *, quietly: bool) -> None:
    """Show the plan, unless `quietly`, and ask whether it shall be carried out."""
    if not quietly:
        _show_plan(plan, as_json=False)
    typer.confirm(_question(plan), abort=True, err=True)


def _apply(api: AdminApi, chosen: Sequence[str], *, is_confirmed: bool, as_json: bool) -> bool:
    """Carry the plan out, and compare registry and server again; whether anything is left."""
    done: list[Json] = []
    while True:
        left_to_choose = [name for name in chosen if name not in {step["database"] for step in done}]
        report = api.recover(left_to_choose, confirm=is_confirmed)
        done += report["done"]
        if report["isOver"]:
            break
        if not as_json:
            say(f"{len(done)} done, {len(report['left']['steps'])} are left.")
    left, drift = report["left"], api.drift()
    if as_json:
        show_json({"done": done, "left": left, "drift": drift})
    else:
        for step in done:
            say(f"Done: {step['explanation']}")
        _show_left(left)
        if drift:
            say("Registry and server still contradict each other:")
            show_list(drift, _DRIFT)
    return _is_left(left) or bool(drift)


def _is_left(plan: Json) -> bool:
    return bool(plan["confirmation"] or plan["steps"] or plan["questions"] or plan["waiting"])


def _question(plan: Json) -> str:
    question = "Carry this out? No database is dropped."
    if plan["confirmation"] is None:
        return question
    return f"Is there no other service on the original of this registry, and is this its server? {question}"


def _show_plan(plan: Json, *, as_json: bool) -> None:
    if as_json:
        show_json(plan)
        return
    if not _is_left(plan):
        say("The registry knows what the server has: nothing is to be recovered.")
    _show_left(plan)


def _show_left(plan: Json) -> None:
    if plan["confirmation"] is not None:
        say(f"To confirm: {plan['confirmation']}")
    for step in plan["steps"]:
        say(f"To do: {step['explanation']}")
        if step["obstacle"] is not None:
            say(f"    It could not be done: {step['obstacle']}")
    for question in plan["questions"]:
        say(f"To decide: which database had '{question['name']}' ({question['odsInstanceId']}) last?")
        for database in question["databases"]:
            place = "in the trash" if database["inTrash"] else "in use"
            say(f"    --choose {database['name']}: {place}, since {database['publishedAt'] or 'unknown'}")
    for name in plan["waiting"]:
        say(f"'{name}' is left to its job, which waits or runs. Recover again when that has ended.")
