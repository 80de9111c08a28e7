"""Files that describe instances, one a line: reading them, and having the instances made.

The first line names the columns. Everything that is wrong is told together, with the numbers of the lines,
before anything is made. Then the instances are requested 20 at a time, under keys that the file's contents
make: a run that is repeated after it was cut makes nothing twice.
"""

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ods.cli.client import AdminApi, Json, RefusalError, UnknownInstanceError
from ods.cli.key_values import key_values
from ods.embedded.errors import CommandError
from ods.model.operations import Template
from ods.registry.instances.naming import doubled_parts

_AT_ONCE = 20
"""Instances of one request: as many as the API takes."""
_ORIGINS = ("template", "copyOf", "mode", "backupId")
_COLUMNS = ("name", *_ORIGINS, "labels", "contexts", "description", "protected")
_SEPARATOR = ";"
_ENTRY = re.compile(r"instances\[([0-9]+)\]")
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

_DELETED = (
    "An earlier run of this file has requested '{}', which was deleted since. Undelete it, or change the"
    " file, be it by an empty line, to have it made anew."
)

_Fault = tuple[int, str]
"""The number of a line, and what is wrong with it."""
_FindInstance = Callable[[str], int]
"""Takes a name or an id, and returns the id; raises `UnknownInstanceError` if no instance has the name."""


@dataclass(frozen=True)
class Line:
    """A line of such a file.

    Attributes:
        number: its number; the first line, with the columns, has 1.
        entry: the instance, as the API takes it.
    """

    number: int
    entry: Json


@dataclass(frozen=True)
class Batch:
    """The lines of one request.

    Attributes:
        lines: these lines.
        key: the idempotency key of the request.
    """

    lines: Sequence[Line]
    key: str

    @property
    def entries(self) -> list[Json]:
        """The instances."""
        return [line.entry for line in self.lines]


@dataclass(frozen=True)
class Sheet:
    """What a file says.

    Attributes:
        batches: the instances that can be read from it, as they are requested.
        faults: what is wrong with its lines.
    """

    batches: Sequence[Batch]
    faults: Sequence[_Fault]

    @property
    def count(self) -> int:
        """How many instances that are."""
        return sum(len(batch.lines) for batch in self.batches)


def read_sheet(path: Path, find_instance: _FindInstance) -> Sheet:
    """What the file says.

    Args:
        path: the file.
        find_instance: finds the instances that are to be copied.

    Raises:
        CommandError: it cannot be read, or does not say which columns it has.
    """
    try:
        contents = path.read_bytes()
        text = contents.decode("utf-8-sig")
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise CommandError(f"{path} is no text in UTF-8.") from None
    faults: list[_Fault] = []
    lines = list(_lines(text, find_instance, faults))
    digest = hashlib.sha256(contents).hexdigest()
    batches = [
        Batch(lines[start : start + _AT_ONCE], f"csv-{digest}-{start}")
        for start in range(0, len(lines), _AT_ONCE)
    ]
    return Sheet(batches, [*faults, *_doubled(lines)])


def plan(api: AdminApi, sheet: Sheet) -> list[Json]:
    """What would become of each line; those that an earlier run has requested have jobs already.

    Raises:
        CommandError: something would be refused: everything, with the numbers of the lines.
    """
    answers = [(batch, api.plan_all(batch.entries, batch.key)) for batch in sheet.batches]
    refused = [fault for batch, answer in answers for fault in _by_line(batch, answer.get("errors", {}))]
    gone = [fault for batch, answer in answers for fault in _gone(api, batch, answer["instances"])]
    _require_none([*sheet.faults, *refused, *gone])
    if not answers:
        raise CommandError("The file describes no instance.")
    return [row for batch, answer in answers for row in _numbered(batch, answer["instances"])]


def create(api: AdminApi, sheet: Sheet) -> Iterator[list[Json]]:
    """Request the instances; yields those of each request, with the numbers of their lines.

    Raises:
        CommandError: a request was refused, although the plan of it was not.
    """
    for batch in sheet.batches:
        try:
            made = api.create_all(batch.entries, batch.key)
        except RefusalError as refusal:
            _require_none(_by_line(batch, refusal.errors))
            raise
        yield _numbered(batch, made)


def _gone(api: AdminApi, batch: Batch, instances: Sequence[Json]) -> Iterator[_Fault]:
    """Faults of lines whose instances an earlier run has requested, and that were deleted since.

    The API would repeat its answer to that run, and make none of them.
    """
    for line, one in zip(batch.lines, instances, strict=False):
        if "jobId" in one and all(row["status"] == "Deleted" for row in api.instances(id=one["id"])):
            yield line.number, _DELETED.format(one["name"])


def _numbered(batch: Batch, instances: Sequence[Json]) -> list[Json]:
    return [{"line": line.number, **one} for line, one in zip(batch.lines, instances, strict=True)]


def _by_line(batch: Batch, errors: Mapping[str, Sequence[str]]) -> list[_Fault]:
    """The faults that the API tells of the entries of a request."""
    faults = []
    for name, messages in errors.items():
        found = _ENTRY.match(name)
        number = batch.lines[int(found[1])].number if found else batch.lines[0].number
        faults += [
            (number, _ENTRY.sub(lambda it: f"line {batch.lines[int(it[1])].number}", message))
            for message in messages
        ]
    return faults


def _require_none(faults: Sequence[_Fault]) -> None:
    if faults:
        told = "\n".join(f"line {number}: {message}" for number, message in sorted(set(faults)))
        raise CommandError(f"Nothing was made of these lines, nor of those after them:\n{told}")


def _lines(text: str, find_instance: _FindInstance, faults: list[_Fault]) -> Iterator[Line]:
    """The lines that describe instances; what is wrong with others is added to `faults`."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = [name.strip() for name in next(reader, [])]
        _require_columns(columns)
        number = reader.line_num + 1
        for fields in reader:
            if any(field.strip() for field in fields):
                entry, wrong = _entry(columns, fields, find_instance)
                faults += [(number, message) for message in wrong]
                if not wrong:
                    yield Line(number, entry)
            number = reader.line_num + 1
    except csv.Error as error:
        faults.append((reader.line_num, f"It is not CSV: {error}."))


def _require_columns(columns: Sequence[str]) -> None:
    unknown = [name for name in columns if name not in _COLUMNS]
    if unknown or "name" not in columns or len(set(columns)) < len(columns):
        raise CommandError(
            f"line 1: It must name the columns, each once: {', '.join(_COLUMNS)}."
            " All but `name` can be left out."
        )


def _entry(
    columns: Sequence[str], fields: Sequence[str], find_instance: _FindInstance
) -> tuple[Json, list[str]]:
    """The instance that a line describes, and what is wrong with the line."""
    if len(fields) != len(columns):
        return {}, [f"It has {len(fields)} fields; there are {len(columns)} columns."]
    given = {name: field.strip() for name, field in zip(columns, fields, strict=True)}
    wrong: list[str] = []
    contexts = _pairs("contexts", given, wrong)
    entry: Json = {
        "name": given["name"],
        **_origin(given, find_instance, wrong),
        "description": given.get("description") or None,
        "labels": _pairs("labels", given, wrong),
        "contexts": [{"contextKey": key, "contextValue": value} for key, value in contexts.items()],
    }
    if word := given.get("protected"):
        entry["protected"] = _WORDS.get(word.lower())
        if entry["protected"] is None:
            wrong.append(f"'{word}' in the column protected must be true or false.")
    return entry, wrong


def _origin(given: Mapping[str, str], find_instance: _FindInstance, wrong: list[str]) -> Json:
    """The members that say where the instance comes from: `Minimal` unless the line tells it."""
    template, copy_of, mode, backup = (given.get(column) or None for column in _ORIGINS)
    source = None
    if copy_of is not None:
        try:
            source = find_instance(copy_of)
        except UnknownInstanceError as error:
            wrong.append(f"In the column copyOf: {error}")
    if copy_of is None and backup is None:
        template = template or Template.MINIMAL.value
    return {"databaseTemplate": template, "copyOf": source, "mode": mode, "backupId": backup}


def _pairs(column: str, given: Mapping[str, str], wrong: list[str]) -> dict[str, str]:
    """The keys and values in a field, separated by semicolons; what is wrong is added to `wrong`."""
    texts = [text.strip() for text in given.get(column, "").split(_SEPARATOR) if text.strip()]
    try:
        return key_values(texts)
    except CommandError as error:
        wrong.append(f"In the column {column}: {error}")
        return {}


def _doubled(lines: Sequence[Line]) -> Iterator[_Fault]:
    """Faults of lines that want what an earlier line has: they may be in requests of their own."""
    instances = {
        line.number: (
            line.entry["name"],
            line.entry["databaseTemplate"],
            {it["contextKey"]: it["contextValue"] for it in line.entry["contexts"]},
        )
        for line in lines
    }
    for number, earlier, part in doubled_parts(instances):
        yield number, f"{part.words} is that of line {earlier} as well."
