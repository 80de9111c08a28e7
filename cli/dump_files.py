"""Files that templates are loaded from: their forms, where they come from, and what SQL in them may do."""

import gzip
import re
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from enum import StrEnum
from io import BufferedReader
from pathlib import Path
from typing import IO, NamedTuple

import httpx

from embedded.errors import CommandError

_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_CONNECT_SECONDS = 30
_ARCHIVE, _GZIP = b"PGDMP", b"\x1f\x8b"
_TAR_NAME = b"toc.dat\0"
"""How an archive of the form `tar` begins."""

_COPY = re.compile(rb"COPY\s.*\sFROM\s+stdin;?\s*$", re.IGNORECASE)
_END_OF_DATA = (b"\\.\n", b"\\.\r\n", b"\\.")
_RESTRICTION = re.compile(rb"\\(un)?restrict\s")
"""Commands that pg_dump writes for psql; `restrict` of our own takes their place."""
_EXTENSION = re.compile(rb"\s*CREATE\s+EXTENSION\s+(?:IF\s+NOT\s+EXISTS\s+)?\"?([\w-]+)", re.IGNORECASE)
_REFUSED = re.compile(
    rb"\s*(?:CREATE|ALTER|DROP)\s+(?:DATABASE|ROLE|GROUP|TABLESPACE|SYSTEM|USER(?!\s+MAPPING))\b",
    re.IGNORECASE,
)


class DumpForm(StrEnum):
    """The forms of files that a template can be loaded from."""

    ARCHIVE = "archive"
    SQL = "SQL"


class Dump(NamedTuple):
    """A file or folder that a template is loaded from."""

    path: Path
    form: DumpForm


@contextmanager
def dump_of(source: str, report: Callable[[str], None]) -> Iterator[Dump]:
    """The dump at `source`, a path or an address; one from the network is kept in a file meanwhile.

    Args:
        source: the path of a file or folder, or an address that begins with http:// or https://.
        report: called with how much has arrived.

    Raises:
        CommandError: there is none, or it has another form.
    """
    if not _ADDRESS.match(source):
        path = Path(source).absolute()
        yield Dump(path, _form(path))
        return
    with tempfile.NamedTemporaryFile(prefix="ods-template-") as file:
        _download(source, file, report)
        yield Dump(Path(file.name), _form(Path(file.name)))


def sql_extensions(dump: Dump) -> Collection[str]:
    """The extensions that an SQL file creates.

    Raises:
        CommandError: it has statements that reach beyond its database, or commands of psql.
    """
    found = set()
    for number, line in _sql(dump):
        if line.startswith(b"\\") and not _RESTRICTION.match(line):
            raise CommandError(
                f"Line {number} of the file is a command of psql. Remove it; nothing was done."
            )
        if statement := _REFUSED.match(line):
            words = b" ".join(statement[0].split()).decode().upper()
            raise CommandError(
                f"Line {number} of the file begins with {words}, which reaches beyond its database. Make the"
                " dump of one database, without --create; nothing was done."
            )
        if extension := _EXTENSION.match(line):
            found.add(extension[1].decode())
    return found


def sql_lines(dump: Dump) -> Iterator[bytes]:
    """The lines of an SQL file without its own `restrict` and `unrestrict`, data included."""
    with _opened(dump.path) as file:
        in_data = False
        for line in file:
            if in_data or not _RESTRICTION.match(line):
                yield line
            in_data = _is_in_data(line, in_data=in_data)


def _sql(dump: Dump) -> Iterator[tuple[int, bytes]]:
    """The numbered lines of an SQL file that are no data of a COPY.

    Raises:
        CommandError: it cannot be read.
    """
    in_data = False
    try:
        with _opened(dump.path) as file:
            for number, line in enumerate(file, 1):
                was_in_data, in_data = in_data, _is_in_data(line, in_data=in_data)
                if not was_in_data:
                    yield number, line
    except (OSError, EOFError) as error:
        raise CommandError(f"The file cannot be read ({type(error).__name__}).") from None


def _is_in_data(line: bytes, *, in_data: bool) -> bool:
    """Whether the line after `line` is data of a COPY."""
    return line not in _END_OF_DATA if in_data else _COPY.match(line) is not None


def _opened(path: Path) -> BufferedReader | gzip.GzipFile:
    with path.open("rb") as file:
        is_compressed = file.read(len(_GZIP)) == _GZIP
    return gzip.open(path, "rb") if is_compressed else path.open("rb")


def _form(path: Path) -> DumpForm:
    """The form of a file or folder, by its content: names may say anything.

    Raises:
        CommandError: it is missing, cannot be read, or has none of these forms.
    """
    try:
        if path.is_dir():
            if not (path / "toc.dat").is_file():
                raise CommandError(f"{path} is no archive of pg_dump: it has no toc.dat.")
            return DumpForm.ARCHIVE
        with path.open("rb") as file:
            head = file.read(len(_TAR_NAME))
        if head.startswith(_ARCHIVE):
            return DumpForm.ARCHIVE
        with _opened(path) as file:
            text = file.read(4096)
    except FileNotFoundError:
        raise CommandError(f"There is no file or folder {path}.") from None
    except (OSError, EOFError) as error:
        raise CommandError(f"{path} cannot be read ({type(error).__name__}).") from None
    if head == _TAR_NAME or b"\0" in text or not text.strip():
        raise CommandError(
            f"{path} is neither an archive of pg_dump (custom or directory format) nor SQL, plain or in gzip."
        )
    return DumpForm.SQL


def _download(address: str, file: IO[bytes], report: Callable[[str], None]) -> None:
    timeout = httpx.Timeout(_CONNECT_SECONDS)
    try:
        with httpx.stream("GET", address, follow_redirects=True, timeout=timeout) as answer:
            if not answer.is_success:
                raise CommandError(f"The address answers {answer.status_code} {answer.reason_phrase}.")
            for chunk in answer.iter_raw():
                file.write(chunk)
                report(f"{file.tell() // 1024**2} MB")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CommandError(f"The address cannot be read ({type(error).__name__}).") from None
    except OSError as error:
        raise CommandError(
            f"The file cannot be kept ({type(error).__name__}); TMPDIR names a folder with more room."
        ) from None
    file.flush()
