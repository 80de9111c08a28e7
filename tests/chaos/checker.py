"""The independent checker: whether everything that was promised is true once things are quiet.

It takes nothing on trust: it imports none of the product's code, and reads the servers with SQL and the
Temporal API. What the formats are (names, comments, encrypted strings) is written down here a second time,
from their documentation, on purpose.
"""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from cryptography.exceptions import InvalidSignature
from temporalio.client import Client

from tests.chaos import life, snapshots
from tests.chaos.evidence import (
    BESIDE,
    RESET,
    Database,
    Evidence,
    ForeignDatabase,
    History,
    Instance,
    Job,
    OdsInstance,
    Target,
    client_rows,
    contents,
    decrypted,
    first_name,
    foreign_databases,
    gather,
    is_spare,
)
from tests.chaos.violations import BACKED_UP, Kind, Storm, Verdict, Violation

_POLL_SECONDS = 0.5
_NOTHING = Verdict()
_STAGING = "ods_staging_"
_PUBLISHED = "EdFi_Ods_"

# What the status of an instance and the operation of its last job say about the status of that job.
_AGREEMENT = {
    ("Completed", "Create"): "Completed",
    ("Completed", "Rename"): "Completed",
    ("Error", "Create"): "Error",
    ("Error", "Rename"): "Error",
    ("Deleted", "Delete"): "Completed",
    ("Delete_Failed", "Delete"): "Error",
    ("Completed", "Undelete"): "Completed",
    ("Deleted", "Undelete"): "Error",
    ("Deleted", "Purge"): "Completed",
    ("Delete_Failed", "Purge"): "Error",
}
_ENDED = {status for status, _ in _AGREEMENT}
_OUTAGE = re.compile(
    "Unexpected fault|cannot be reached|could not be reached|ended the connection|is a standby"
    "|no free connections|refused the login|out of disk space|No worker could finish|An earlier attempt still"
    r"|\b(?:was|were|has been|is|are) away\b|\btimed? ?out\b|SQLSTATE (?:08|25006|28|53|55P03|57P|58)",
    re.IGNORECASE,
)
"""Reasons that say nothing about the job itself, but that something did not answer while it ran."""


async def check(target: Target, storm: Storm, seconds: float) -> Sequence[Violation]:
    """Wait until nothing is under way, for `seconds` at most, and then tell all that is wrong."""
    return (await judge(target, storm, seconds)).violations


async def judge(target: Target, storm: Storm, seconds: float) -> Verdict:
    """Wait until nothing is under way, for `seconds` at most, and then judge everything."""
    temporal = await Client.connect(target.temporal_address, namespace=target.namespace)
    evidence = await _final(target, temporal, storm, seconds)
    foreign = await foreign_databases(target, list(storm.foreign)) if storm.foreign else {}
    published = [it for it in evidence.databases if it.mark and it.name not in storm.foreign]
    found = [
        *_judged(evidence, target, storm, foreign),
        *_copies(evidence.instances, await contents(target, published)),
        *life.rows_judged(evidence, storm, await client_rows(target, life.with_rows(evidence, storm))),
    ]
    found += await snapshots.judged(evidence, storm, target)
    return Verdict(
        [violation for violation in found if not _is_leftover(violation, storm.history)],
        [violation for violation in found if _is_leftover(violation, storm.history)],
        _touched(evidence, storm.history),
        {instance.database_name for instance in evidence.instances if instance.is_detached},
    )


def _touched(evidence: Evidence, history: History) -> Sequence[str]:
    instances = [it for it in evidence.instances if it.mark in history.changed]
    databases = [it.name for it in evidence.databases if (it.mark or it.snapshot_of) in history.changed]
    return [*databases, *(name for it in instances for name in (it.name, it.database_name))]


def _is_leftover(violation: Violation, history: History) -> bool:
    return violation.mark in history.changed


async def check_drift(
    command: Sequence[str],
    storm: Storm,
    verdict: Verdict = _NOTHING,
    planned: Sequence[Mapping[str, object]] = (),
) -> Sequence[Violation]:
    """What `command` (`ods drift --json`) reports, but for databases that were there before.

    All leftovers of the verdict must be among it, or among what `ods recover` has `planned`; and after a
    restore it may say something of the registry as a whole.
    """
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    try:
        known = {*storm.foreign, *verdict.detached}
        found = [drift for drift in json.loads(output) if drift["subject"] not in known]
    except (ValueError, TypeError, KeyError):
        return [Violation(Kind.DRIFT, f"no report (exit code {process.returncode}): {output.decode()}")]
    return [*_unexpected_drift(found, storm, verdict), *_unreported([*found, *planned], verdict.leftovers)]


def _unexpected_drift(
    found: Sequence[Mapping[str, object]], storm: Storm, verdict: Verdict
) -> Iterator[Violation]:
    expected = [*verdict.touched, *(name for leftover in verdict.leftovers for name in leftover.names)]
    for drift in found:
        about_registry = bool(storm.history.changed) and "Registry" in str(drift.get("kind"))
        if not about_registry and not _names(drift, expected):
            yield Violation(Kind.DRIFT, str(drift))


def _unreported(found: Sequence[Mapping[str, object]], leftovers: Sequence[Violation]) -> Iterator[Violation]:
    for leftover in leftovers:
        if not any(_names(drift, leftover.names) for drift in found):
            yield Violation(Kind.UNREPORTED, f"{leftover.kind}: {leftover.words}")


def _names(drift: Mapping[str, object], names: Collection[str]) -> bool:
    """Whether a finding contains one of `names`; `Client 1 1` is not contained in `Client 1 10`."""
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", str(drift)) for name in names)


async def _final(target: Target, temporal: Client, storm: Storm, seconds: float) -> Evidence:
    """The evidence once things are quiet; if they never are, the checks say what is not."""
    deadline = time.monotonic() + seconds
    while True:
        evidence = await gather(target, temporal)
        if not any(_under_way(evidence, storm)) or time.monotonic() > deadline:
            return evidence
        await asyncio.sleep(_POLL_SECONDS)


def _under_way(evidence: Evidence, storm: Storm) -> Iterator[Violation]:
    yield from _unfinished(evidence)
    yield from _open_workflows(evidence, storm.history)
    yield from _spares(evidence, storm.spares)
    # The next pass brings to its end a DROP that was interrupted.
    for violation in _databases(evidence, storm.foreign):
        if violation.kind is Kind.INVALID_DATABASE and not _is_leftover(violation, storm.history):
            yield violation


def _judged(
    evidence: Evidence, target: Target, storm: Storm, foreign: Mapping[str, ForeignDatabase]
) -> Iterator[Violation]:
    yield from _unfinished(evidence)
    yield from _requests(evidence, storm)
    yield from _jobs(evidence)
    yield from _away(evidence, storm.history)
    yield from _completed(evidence)
    yield from _published_gone(evidence, storm)
    yield from life.judged(evidence, storm)
    yield from _crossed(evidence, storm, target)
    yield from _databases(evidence, storm.foreign)
    yield from _spares(evidence, storm.spares)
    yield from _foreign(storm.foreign, foreign)
    yield from _ods_instances(evidence, storm, target)
    yield from _open_workflows(evidence, storm.history)
    yield from _duplicate_workflows(evidence)


def _unfinished(evidence: Evidence) -> Iterator[Violation]:
    """Rows of jobs that have not ended."""
    for instance in evidence.instances:
        if instance.status not in _ENDED:
            open_now = [
                str(flow) for flow in evidence.workflows if flow.ods_instance_id == instance.ods_instance_id
            ]
            words = f"{instance}, {instance.operation}: its workflow is {', '.join(open_now) or 'not open'}"
            yield Violation(Kind.UNFINISHED, words)


def _requests(evidence: Evidence, storm: Storm) -> Iterator[Violation]:
    """Each accepted request has led to its job, and each job comes from a request."""
    yield from _accepted(evidence, storm)
    yield from _in_part(evidence, storm)
    if storm.requests:
        yield from _unrequested(evidence, storm)


def _accepted(evidence: Evidence, storm: Storm) -> Iterator[Violation]:
    jobs = {job.job_id: job for job in evidence.jobs}
    marks = {instance.id: instance.mark for instance in evidence.instances}
    for request in storm.requests:
        # The id of a job that a restore has removed may be another job's now.
        if request.job is None or (request.job, request.name) in storm.history.forgotten:
            continue
        job = jobs.get(request.job)
        if job is None:
            yield Violation(Kind.LOST_REQUEST, f"{request.operation} '{request.name}': no job {request.job}")
        elif marks.get(job.instance_id or 0) in storm.history.changed:
            continue  # a restore has put it back to what it was before it was done
        elif request.outcome == "Completed" and job.status != "Completed":
            yield Violation(Kind.RETRACTED, f"{job.job_id} was Completed and is {job.status}")


def _in_part(evidence: Evidence, storm: Storm) -> Iterator[Violation]:
    """What was requested together is done for all instances or for none.

    After a restore, instances that were deleted together can be deleted one by one.
    """
    instances = {instance.id: instance for instance in evidence.instances}
    restored = {first_name(it.name) for it in evidence.instances if it.mark in storm.history.changed}
    restored |= {name for _, name in storm.history.removed}
    done = {
        (_operation(job), first_name(instances[job.instance_id].name))
        for job in evidence.jobs
        if job.instance_id in instances
    }
    for request in storm.together:
        found = {name for name in request.names if (request.operation, name) in done}
        if found and found != request.names and not restored & request.names:
            missing = ", ".join(sorted(request.names - found))
            words = f"{request.operation} of {', '.join(sorted(found))}, but not of {missing}"
            yield Violation(Kind.IN_PART, words)


def _unrequested(evidence: Evidence, storm: Storm) -> Iterator[Violation]:
    accepted = {request.job for request in storm.requests}
    # Those that can have led to jobs of one kind only are taken first.
    perhaps = sorted((it for it in storm.requests if it.job is None), key=lambda it: len(it.jobs))
    instances = {instance.id: instance for instance in evidence.instances}
    for job in evidence.jobs:
        instance = instances.get(job.instance_id or 0)
        if job.job_id in accepted or (instance and _follows(job, instance, storm)):
            continue
        name = first_name(instance.name) if instance else ""
        request = next((it for it in perhaps if it.name == name and _operation(job) in it.jobs), None)
        if request is None:
            yield Violation(Kind.UNREQUESTED, f"{job.job_id} for '{name}': no such request is left")
        else:
            perhaps.remove(request)


def _follows(job: Job, instance: Instance, storm: Storm) -> bool:
    """Whether it is a purge that no request is answered with: when its time is over, or after a delete."""
    name = first_name(instance.name)
    is_to_follow = any(it.operation == BACKED_UP and it.name == name for it in storm.requests)
    return _operation(job) == "Purge" and (instance.mark in storm.history.due or is_to_follow)


def _jobs(evidence: Evidence) -> Iterator[Violation]:
    """Each job has ended in good order, and the last one of an instance as the instance says."""
    instances = {instance.id: instance for instance in evidence.instances}
    listed: dict[int | None, list[str]] = {}
    for job in evidence.jobs:
        listed.setdefault(job.instance_id, []).append(job.job_id)
        if job.instance_id not in instances:
            yield Violation(Kind.DISAGREEMENT, f"{job.job_id} belongs to no instance")
        if job.status not in {"Completed", "Error"}:
            yield Violation(Kind.UNFINISHED_JOB, f"{job.job_id} is {job.status}")
        elif not job.finished or (job.error_message is None) != (job.status == "Completed"):
            words = f"{job.job_id} is {job.status}, finished: {job.finished}, error: {job.error_message}"
            yield Violation(Kind.DISAGREEMENT, words)
    statuses = {job.job_id: job.status for job in evidence.jobs}
    for instance in evidence.instances:
        yield from _last_job(instance, statuses)
        numbers = sorted(int(job.rpartition("-")[2]) for job in listed.get(instance.id, []))
        if numbers != list(range(1, instance.job_number + 1)):
            yield Violation(
                Kind.DISAGREEMENT, f"{instance} has had {instance.job_number} jobs, there are {numbers}"
            )


def _last_job(instance: Instance, statuses: Mapping[str, str]) -> Iterator[Violation]:
    if instance.status not in _ENDED:
        return
    job = f"{instance.operation}InstanceJob-{instance.ods_instance_id}-{instance.job_number}"
    status = _status_of_last_job(instance)
    if status is None or statuses.get(job) != status:
        words = f"{instance}, {instance.operation}: {job} is {statuses.get(job, 'missing')}"
        names = (instance.name, instance.database_name)
        yield Violation(Kind.DISAGREEMENT, words, instance.mark, names)
    if (instance.error_message is not None) != instance.has_failed:
        yield Violation(Kind.DISAGREEMENT, f"{instance} has the error message {instance.error_message}")
    has_failed_rename = (instance.status, instance.operation) == ("Error", "Rename")
    # A delete that follows a failed rename keeps its name: the database may have it.
    may_follow_one = (instance.status, instance.operation) == ("Delete_Failed", "Delete")
    if not may_follow_one and (instance.new_name is not None) != has_failed_rename:
        yield Violation(Kind.DISAGREEMENT, f"{instance} has the new name {instance.new_name}")


def _status_of_last_job(instance: Instance) -> str | None:
    if instance.status == "Completed" and instance.operation in BESIDE:
        return "Error" if instance.has_failed else "Completed"
    return _AGREEMENT.get((instance.status, instance.operation))


def _away(evidence: Evidence, history: History) -> Iterator[Violation]:
    """An outage is waited for: no job fails with it, not even one that was retried afterwards."""
    failed = {(job.job_id, job.error_message or "") for job in evidence.jobs if job.status == "Error"}
    for job, reason in sorted(failed | history.errors):
        if _OUTAGE.search(reason):
            yield Violation(Kind.AWAY, f"{job}: {reason}")


def _published_gone(evidence: Evidence, storm: Storm) -> Iterator[Violation]:
    """What was once published is dropped only if a client has requested that for this instance."""
    there = {database.oid for database in evidence.databases}
    gone = life.may_be_gone(evidence, storm)
    for (mark, oid), name in storm.history.published.items():
        if oid not in there and name not in storm.foreign and mark not in gone:
            owners = [str(instance) for instance in evidence.instances if instance.mark == mark]
            words = f"{name} (mark {mark}, oid {oid}) of {', '.join(owners) or 'no instance'}"
            yield Violation(Kind.PUBLISHED_GONE, words)


def _crossed(evidence: Evidence, storm: Storm, target: Target) -> Iterator[Violation]:
    """Name, database and routing of an instance are its own, and not another instance's."""
    yield from _crossed_names(evidence, storm)
    marks = {database.name: database.mark for database in evidence.databases}
    known = {instance.mark for instance in evidence.instances} | storm.history.changed
    known |= {mark for mark, _ in storm.history.published}
    routes = {row.ods_instance_id: _routed_database(row, target) for row in evidence.ods_instances}
    for instance in evidence.instances:
        if not instance.is_complete:
            continue
        for what, name in (
            ("has", instance.database_name),
            ("is routed to", routes.get(instance.ods_instance_id)),
        ):
            mark = marks.get(name or "")
            if mark != instance.mark and mark in known:
                words = f"{instance} {what} {name}, which carries another instance's mark {mark}"
                yield Violation(Kind.CROSSED, words)


def _crossed_names(evidence: Evidence, storm: Storm) -> Iterator[Violation]:
    """An instance has the name that its create was requested with."""
    wanted: dict[str, set[str]] = {}
    for request in storm.requests:
        if request.job and (request.job, request.name) not in storm.history.forgotten:
            wanted.setdefault(request.job, set()).add(request.name)
    instances = {instance.id: instance for instance in evidence.instances}
    for job in evidence.jobs:
        instance = instances.get(job.instance_id or 0)
        if instance is None or _operation(job) != "Create" or job.job_id not in wanted:
            continue
        if first_name(instance.name) not in wanted[job.job_id]:
            words = f"{instance}: {job.job_id} was requested for {sorted(wanted[job.job_id])}"
            yield Violation(Kind.CROSSED, words)


def _routed_database(ods_instance: OdsInstance, target: Target) -> str | None:
    """Where the ODS/API is led to; None if that cannot be read."""
    try:
        return decrypted(ods_instance.connection_string or "", target.encryption_key).get("database")
    except (ValueError, InvalidSignature):
        return None


def _completed(evidence: Evidence) -> Iterator[Violation]:
    """Each completed instance has its database, open to sessions, with its mark."""
    databases = {database.name: database for database in evidence.databases}
    for instance in evidence.instances:
        if not instance.is_complete:
            continue
        database = databases.get(instance.database_name)
        if database is None or database.invalid or not database.open:
            found = "closed or invalid" if database else "missing"
            words = f"{instance}: {instance.database_name} is {found}"
            names = (instance.name, instance.database_name)
            yield Violation(Kind.NO_DATABASE, words, instance.mark, names)
        elif database.mark != instance.mark:
            words = f"{instance}: {database.name} has the comment {database.comment}"
            names = (instance.name, instance.database_name)
            yield Violation(Kind.WRONG_MARK, words, instance.mark, names)
        if not instance.published:
            yield Violation(Kind.DISAGREEMENT, f"{instance} has no time of publication")


def _copies(instances: Sequence[Instance], sums: Mapping[str, str]) -> Iterator[Violation]:
    """All copies of a template are alike; the template itself is closed, so most of them tell what it is."""
    completed = [it for it in instances if it.is_complete and it.database_name in sums]
    counted = Counter((it.database_template, sums[it.database_name]) for it in completed)
    usual = {template: checksum for (template, checksum), _ in reversed(counted.most_common())}
    for instance in completed:
        if sums[instance.database_name] != usual[instance.database_template]:
            words = f"{instance}: {sums[instance.database_name] or 'empty'}"
            names = (instance.name, instance.database_name)
            yield Violation(Kind.WRONG_CONTENTS, words, instance.mark, names)


def _databases(evidence: Evidence, foreign: Mapping[str, ForeignDatabase]) -> Iterator[Violation]:
    """Each database is a foreign one, or belongs to an instance that may have it."""
    # What a delete could not move or drop, it says so: the database may be there.
    owners = (
        {
            (instance.database_name, instance.mark)
            for instance in evidence.instances
            if instance.is_complete or instance.status == "Delete_Failed"
        }
        | {
            (instance.trash_database, instance.mark)
            for instance in evidence.instances
            if instance.status in {"Deleted", "Delete_Failed"}
        }
        | set(evidence.versions)
    )
    deletes = {instance.mark for instance in evidence.instances if instance.operation == "Delete"}
    for database in evidence.databases:
        if database.name in foreign:
            continue
        mark = database.staging_mark or database.mark
        if database.name.startswith((_STAGING, RESET)):
            yield Violation(Kind.STAGING_DATABASE, database.name, mark, (database.name,))
        if database.invalid:
            # What a delete has begun, it must bring to its end, whatever a restore did to its row before.
            blamed = None if mark in deletes else mark
            yield Violation(Kind.INVALID_DATABASE, database.name, blamed, (database.name,))
        if database.mark is None and database.snapshot is None and database.name.startswith(_PUBLISHED):
            yield from _unmarked(database, evidence.instances)
        elif database.mark is not None and (database.name, database.mark) not in owners:
            words = _told(database, evidence.instances)
            yield Violation(Kind.SURPLUS_DATABASE, words, mark, (database.name,))


def _unmarked(database: Database, instances: Sequence[Instance]) -> Iterator[Violation]:
    """A database without a mark is one that was left to others, or the instance's before a restore."""
    named = [instance for instance in instances if instance.database_name == database.name]
    if not any(instance.is_detached for instance in named):
        mark = next((instance.mark for instance in reversed(named)), None)
        yield Violation(Kind.UNMARKED_DATABASE, database.name, mark, (database.name,))


def _spares(evidence: Evidence, wanted: int) -> Iterator[Violation]:
    """Each spare is a closed copy of a closed template as that is now, and there are not too many."""
    databases = {database.name: database for database in evidence.databases}
    counted: Counter[str] = Counter()
    for database in evidence.databases:
        if not is_spare(database.name, evidence.installation):
            continue
        said = database.spare
        if said is None or said.installation != evidence.installation or database.open or database.invalid:
            yield Violation(Kind.UNFINISHED_SPARE, f"{database.name} has the comment {database.comment}")
            continue
        template = databases.get(said.template)
        if template is None or template.open or (template.oid, template.xmin) != (said.oid, said.xmin):
            yield Violation(Kind.STALE_SPARE, f"{database.name}, a copy of {said}, which is {template}")
        counted[said.template] += 1
        if counted[said.template] > wanted:
            yield Violation(Kind.SURPLUS_SPARE, f"{database.name}, number {counted[said.template]} of {said}")


def _told(database: Database, instances: Sequence[Instance]) -> str:
    owners = [str(instance) for instance in instances if instance.mark == database.mark]
    return f"{database.name} ({database.comment}) belongs to {', '.join(owners) or 'no instance'}"


def _foreign(
    before: Mapping[str, ForeignDatabase], after: Mapping[str, ForeignDatabase]
) -> Iterator[Violation]:
    for name, database in before.items():
        if after.get(name) != database:
            yield Violation(Kind.FOREIGN_DATABASE, f"{name} was {database} and is {after.get(name)}")


def _ods_instances(evidence: Evidence, storm: Storm, target: Target) -> Iterator[Violation]:
    """Each completed instance has its ODS instance, which leads to its database, and there are no others."""
    completed = {row.ods_instance_id: row for row in evidence.instances if row.is_complete}
    routed = {row.ods_instance_id: row for row in evidence.ods_instances}
    for missing in completed.keys() - routed.keys():
        yield Violation(Kind.NO_ODS_INSTANCE, str(completed[missing]))
    for number, ods_instance in routed.items():
        if number not in completed:
            yield _surplus(ods_instance, evidence.instances)
            continue
        yield from _routed(completed[number], ods_instance, storm.history, target)


def _surplus(ods_instance: OdsInstance, instances: Sequence[Instance]) -> Violation:
    """An ODS instance stays if the delete of its instance is refused, as after a rename that was lost."""
    words = f"OdsInstanceId {ods_instance.ods_instance_id}, '{ods_instance.name}'"
    of_id = [it for it in instances if it.ods_instance_id == ods_instance.ods_instance_id]
    failed = next((it for it in of_id if it.status == "Delete_Failed"), None)
    if failed is None:
        return Violation(Kind.SURPLUS_ODS_INSTANCE, words)
    names = (ods_instance.name, failed.database_name)
    return Violation(Kind.SURPLUS_ODS_INSTANCE, words, failed.mark, names)


def _routed(
    instance: Instance, ods_instance: OdsInstance, history: History, target: Target
) -> Iterator[Violation]:
    # A reset, which may be to another template, leaves the ODS instance as it is.
    has_type = ods_instance.instance_type == instance.database_template or instance.mark in history.resets
    if ods_instance.name != instance.name or not has_type:
        words = f"{instance}: '{ods_instance.name}', {ods_instance.instance_type}"
        yield Violation(Kind.WRONG_ODS_INSTANCE, words)
    host, port = target.address
    expected = {"host": host, "port": port, "database": instance.database_name}
    try:
        pairs = decrypted(ods_instance.connection_string or "", target.encryption_key)
    except (ValueError, InvalidSignature) as fault:
        words = f"{instance}: cannot be decrypted ({type(fault).__name__})"
        yield Violation(Kind.WRONG_CONNECTION_STRING, words)
        return
    found = {key: pairs.get(key) for key in expected}
    if found != expected:
        yield Violation(Kind.WRONG_CONNECTION_STRING, f"{instance}: leads to {found}")


def _open_workflows(evidence: Evidence, history: History) -> Iterator[Violation]:
    """An open workflow is a job that has failed and waits for a decision.

    A restore may have put the instance back to before its failure, or to before it was requested.
    """
    rows = {row.ods_instance_id for row in evidence.instances}
    waiting = {
        row.ods_instance_id for row in evidence.instances if row.has_failed or row.mark in history.changed
    } | {int(job.split("-")[1]) for job, _ in history.forgotten}.difference(rows)
    for workflow in evidence.workflows:
        if workflow.doing or workflow.ods_instance_id not in waiting:
            yield Violation(Kind.OPEN_WORKFLOW, str(workflow))


def _duplicate_workflows(evidence: Evidence) -> Iterator[Violation]:
    """An instance has one workflow at a time, under whatever id."""
    counted = Counter(flow.ods_instance_id for flow in evidence.workflows if flow.ods_instance_id is not None)
    for number, count in counted.items():
        if count > 1:
            flows = [str(flow) for flow in evidence.workflows if flow.ods_instance_id == number]
            yield Violation(Kind.DUPLICATE_WORKFLOW, f"OdsInstanceId {number}: {', '.join(flows)}")


def _operation(job: Job) -> str:
    return job.job_id.partition("InstanceJob-")[0]
