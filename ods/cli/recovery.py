"""`ods recover`: what follows after any restore, or in a copy, of the registry or the server."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from ods.cli.api_access import connect
from ods.cli.client import AdminApi, Json
from ods.cli.lost_databases import give_back_lost
from ods.cli.options import DEFAULT_DATA_DIR, ApiUrl, AsJson, DataDir, Yes, require_no_folder
from ods.cli.output import say, show_json, show_list, show_members
from ods.embedded.errors import CommandError

if TYPE_CHECKING:
    from ods.cli.registry_recovery import Recoverer

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
            help="That this registry goes on: no other service works on its original. Jobs that wait to drop"
            " a database are cancelled, also if nothing else is to be done.",
        ),
    ] = False,
    accept_store: Annotated[
        bool,
        typer.Option(
            "--accept-store",
            help="That the store of backups is the right one, and no copy of this registry uses it.",
        ),
    ] = False,
    as_new_installation: Annotated[
        bool,
        typer.Option(
            "--as-new-installation",
            help="That this registry is a copy: it becomes an installation of its own, and nothing else is"
            " done.",
        ),
    ] = False,
    as_installation: Annotated[
        UUID | None,
        typer.Option(
            metavar="ID",
            help="That this registry is new, and goes on as this installation, whose registry is lost.",
            show_default=False,
        ),
    ] = None,
    restore_lost: Annotated[
        bool,
        typer.Option(
            "--restore-lost",
            help="With --apply: restore what instances without databases have in their newest verified"
            " backups.",
        ),
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Bring the registry in step with the server, after a restore; exit 1 if anything is left.

    No database is dropped or overwritten. Without --apply, only the plan is shown. What must be confirmed is
    asked first; --yes does not answer that.
    """
    chosen = choose or []
    if as_new_installation and (chosen or confirm or accept_store or as_installation):
        raise CommandError(
            "--as-new-installation is given alone: the registry is either a copy, or it goes on."
        )
    if not apply and (restore_lost or as_installation):
        raise CommandError("Add --apply: --restore-lost and --as-installation change something.")
    with _recoverer(api_url, data_dir) as recoverer:
        if restore_lost and not isinstance(recoverer, AdminApi):
            raise CommandError("Databases are restored by jobs: name the API for that, with --api-url.")
        plan = recoverer.recovery_plan(chosen)
        if as_new_installation:
            _become_new(recoverer, plan, apply=apply, yes=yes, as_json=as_json)
            return
        if not apply:
            _show_plan(plan, as_json=as_json)
            is_left = _is_left(plan)
        else:
            if as_installation is not None:
                _take_over(recoverer, str(as_installation), plan["installation"], yes=yes)
                plan = recoverer.recovery_plan(chosen)
            if yes:
                _require_words(plan, confirm=confirm, accept_store=accept_store)
            else:
                _ask(plan, confirm=confirm, accept_store=accept_store, quietly=as_json)
            confirms = confirm or plan["confirmation"] is not None
            accepts = accept_store or plan["store"] is not None
            options = {"confirm": confirms, "accept_store": accepts}
            is_left = _apply(recoverer, chosen, **options, restores=restore_lost, as_json=as_json)
    if is_left:
        raise typer.Exit(1)


@contextmanager
def _recoverer(api_url: str | None, data_dir: Path) -> "Iterator[Recoverer]":
    """What recovers: an API that is named, or this process with the settings, or the API of the stack."""
    # Imported here: it takes half a second, which other commands need not wait for.
    from ods.cli.registry_access import has_settings  # noqa: PLC0415

    if api_url or not has_settings():
        with connect(api_url, data_dir) as api:
            yield api
        return
    from ods.cli.registry_recovery import registry_recovery  # noqa: PLC0415 - as above

    require_no_folder(data_dir, "the settings name another installation")
    with registry_recovery() as recovery:
        yield recovery


def _become_new(recoverer: "Recoverer", plan: Json, *, apply: bool, yes: bool, as_json: bool) -> None:
    """Make the registry an installation of its own, after asking; or say whether that can be done."""
    facts = plan["installation"]
    if not as_json:
        show_members(_members(facts))
    if facts["whyNoCopy"] is not None:
        raise CommandError(facts["whyNoCopy"])
    if not apply:
        if as_json:
            show_json(plan)
        else:
            say("To do: this registry becomes an installation of its own, to which no database belongs yet.")
        raise typer.Exit(1)
    if not yes:
        question = "Is this registry a copy, which shall take over no database of the original?"
        if facts["databases"]:
            question = (
                f"{facts['databases']} databases on the server are this installation's, and would not be any"
                f" more. {question}"
            )
        typer.confirm(question, abort=True, err=True)
    report = recoverer.renew_installation()
    if as_json:
        show_json(report)
    else:
        say(f"This registry is the installation {report['left']['installation']['id']} now.")


def _take_over(recoverer: "Recoverer", installation: str, facts: Json, *, yes: bool) -> None:
    """Have the registry go on as an installation that has lost its own, after asking."""
    if not yes:
        said = next(
            (_in_words(other) for other in facts["otherInstallations"] if other["id"] == installation),
            installation,
        )
        question = (
            f"Is the registry of the installation {said} lost, so that no service works on it any more, and"
            " shall this one go on with its databases?"
        )
        typer.confirm(question, abort=True, err=True)
    recoverer.take_installation_over(installation)


def _require_words(plan: Json, *, confirm: bool, accept_store: bool) -> None:
    """Refuse what `--yes` does not answer."""
    if plan["confirmation"] is not None and not confirm:
        raise CommandError(f"{plan['confirmation']} Add --confirm if it goes on here.")
    if plan["store"] is not None and not accept_store:
        raise CommandError(f"{plan['store']} Add --accept-store if this registry goes on with it.")


def _ask(plan: Json, *, confirm: bool, accept_store: bool, quietly: bool) -> None:
    """Show the plan, unless `quietly`, and ask each question that it has."""
    if not quietly:
        _show_plan(plan, as_json=False)
    if plan["confirmation"] is not None or confirm:
        if not quietly:
            show_members(_members(plan["installation"]))
        question = "Is there no other service on the original of this registry, and may this one go on?"
        typer.confirm(question, abort=True, err=True)
    if plan["store"] is not None or accept_store:
        question = (
            "Is that the right store of backups, with its disk mounted, if it is a folder; and has every copy"
            " of this registry been stopped that uses it?"
        )
        typer.confirm(question, abort=True, err=True)
    typer.confirm("Carry this out? No database is dropped.", abort=True, err=True)


def _members(facts: Json) -> Json:
    """The facts of both sides, for people."""
    shown = {
        name: facts[name] for name in ("id", "registry", "confirmedRegistry", "server", "confirmedServer")
    }
    return {
        **shown,
        "databases": facts["databases"],
        "otherInstallations": "; ".join(map(_in_words, facts["otherInstallations"])) or "none",
        "confirmedInstallations": ", ".join(facts["confirmedInstallations"]) or "none",
    }


def _in_words(other: Json) -> str:
    """Another installation with databases on the server."""
    return f"{other['id']} (of tenant {', '.join(other['tenants'])}; databases: {other['databases']})"


def _apply(  # noqa: PLR0913 - what the operator has said
    recoverer: "Recoverer",
    chosen: Sequence[str],
    *,
    confirm: bool,
    accept_store: bool,
    restores: bool,
    as_json: bool,
) -> bool:
    """Carry the plan out, and compare registry and server again; whether anything is left."""
    done: list[Json] = []
    cancelled: list[Json] = []
    while True:
        left_to_choose = [name for name in chosen if name not in {step["database"] for step in done}]
        report = recoverer.recover(left_to_choose, confirm=confirm, accept_store=accept_store)
        accept_store = False  # the first request has accepted it
        done += report["done"]
        cancelled += report["cancelled"]
        if report["isOver"]:
            break
        if not as_json:
            say(f"{len(done)} done, {len(report['left']['steps'])} are left.")
    left, restored = report["left"], list[Json]()
    if not as_json:
        _show_done(done, cancelled, left, is_confirmed=confirm)
    if restores and isinstance(recoverer, AdminApi):
        restored = [*give_back_lost(recoverer, quietly=as_json)]
    drift = recoverer.drift()
    if as_json:
        report = {"done": done, "cancelled": cancelled, "restored": restored, "left": left, "drift": drift}
        show_json(report)
    else:
        _show_left(left)
        if drift:
            say("Registry and server still contradict each other:")
            show_list(drift, _DRIFT)
    return _is_left(left) or bool(drift)


def _show_done(done: Sequence[Json], cancelled: Sequence[Json], left: Json, *, is_confirmed: bool) -> None:
    for job in cancelled:
        say(
            f"Cancelled {job['jobId']}, which would have dropped a database of '{job['name']}'. Ask its"
            " client: unless `ods drift` says that the database is gone, the job may have been cancelled"
            " since, and the database may be in use."
        )
    if is_confirmed:
        for tenant in left["installation"]["unasked"]:
            say(
                f"The registry of {tenant} is away: whether it is this installation as well is not known."
                " Workers ask it until it answers."
            )
        say("Nothing that is in the trash now is dropped within seven days, unless you purge it.")
        say("Confirmed. API and workers go on within a few seconds.")
    for step in done:
        say(f"Done: {step['explanation']}")


def _is_left(plan: Json) -> bool:
    named = ("confirmation", "store", "steps", "questions", "waiting")
    return any(plan[name] for name in named)


def _show_plan(plan: Json, *, as_json: bool) -> None:
    if as_json:
        show_json(plan)
        return
    if not _is_left(plan):
        say("The registry knows what the server has: nothing is to be recovered.")
    _show_left(plan)


def _show_left(plan: Json) -> None:
    for name in ("confirmation", "store"):
        if plan[name] is not None:
            say(f"To confirm: {plan[name]}")
    facts = plan["installation"]
    if not facts["databases"]:
        for other in facts["otherInstallations"]:
            say(f"    The server has databases of another installation: {_in_words(other)}.")
            say(f"    If its registry is lost, and this one is new: --apply --as-installation {other['id']}")
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
