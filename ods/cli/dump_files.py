"""Files that templates are loaded from: their forms, where they come from, and what SQL in them may do."""

import codecs
import gzip
import re
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from enum import StrEnum
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple

import httpx

from ods.cli.sql_scripts import Readable, ends_data, is_restriction, script_lines
from ods.embedded.errors import CommandError
from ods.programs.unnamed_files import unnamed_file

_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_CONNECT_SECONDS = 30
_ARCHIVE, _GZIP = b"PGDMP", b"\x1f\x8b"
_TAR_NAME = b"toc.dat\0"
"""How an archive of the form `tar` begins."""

_COPY = re.compile(rb"COPY\s.*\sFROM\s+stdin;?\s*$", re.IGNORECASE)
"""As pg_dump writes it. If it stands in a text, `restrict` lines after it stay, which psql refuses."""
_EXTENSION = re.compile(rb"\s*CREATE\s+EXTENSION\s+(?:IF\s+NOT\s+EXISTS\s+)?([\w-]+)", re.IGNORECASE)
_REFUSED = re.compile(
    rb"\s*(?:"
    rb"(?:CREATE|ALTER|DROP)\s+(?:DATABASE|ROLE|GROUP|TABLESPACE|SYSTEM|USER(?!\s+MAPPING))\b"
    rb"|COMMENT\s+ON\s+(?:DATABASE|ROLE|TABLESPACE)\b"
    rb"|(?:GRANT|REVOKE)\b[^;]*?\bON\s+(?:DATABASE|TABLESPACE|PARAMETER)\b"
    rb"|(?:DROP|REASSIGN)\s+OWNED\b"
    rb"|COPY\b.*\b(?:FROM|TO)\s+PROGRAM\b"
    rb")",
    re.IGNORECASE | re.DOTALL,
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
        yield Dump(path, _form(path, str(path)))
        return
    with unnamed_file("ods-template-") as (file, path):
        _download(source, file, report)
        yield Dump(path, _form(path, "What the address has"))


def sql_extensions(dump: Dump) -> Collection[str]:
    """The extensions that an SQL file creates.

    Raises:
        CommandError: it cannot be read, is not whole, has statements that reach beyond its database, or
            commands of psql.
    """
    with _readable(), _opened(dump.path) as file:
        return script_extensions(file)


def script_extensions(script: Readable) -> Collection[str]:
    """The extensions that a script creates.

    Raises:
        CommandError: it is not whole, has statements that reach beyond its database, or commands of psql.
    """
    found = set()
    for line in script_lines(script):
        if line.has_command:
            raise CommandError(
                f"Line {line.number} of the file has a command of psql. Remove it; nothing was done."
            )
        for statement in line.statements:
            if refused := _REFUSED.match(statement):
                words = b" ".join(refused[0].split()).decode(errors="replace").upper()
                raise CommandError(
                    f"The statement that ends in line {line.number} of the file begins with {words}, which"
                    " reaches beyond its database. Make the dump of one database, without --create; nothing"
                    " was done."
                )
            if extension := _EXTENSION.match(statement):
                found.add(extension[1].decode())
    return found


def sql_lines(dump: Dump) -> Iterator[bytes]:
    """The lines of an SQL file without its own `restrict` and `unrestrict`, data included.

    Raises:
        CommandError: it cannot be read.
    """
    with _readable(), _opened(dump.path) as file:
        in_data = False
        for line in chain([file.readline().removeprefix(codecs.BOM_UTF8)], file):
            if in_data or not is_restriction(line):
                yield line
            in_data = not ends_data(line) if in_data else _COPY.match(line) is not None


@contextmanager
def _readable() -> Iterator[None]:
    """Turn what goes wrong while a file is read into words.

    Raises:
        CommandError: for each of these.
    """
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise CommandError(f"The file cannot be read ({type(error).__name__}).") from None


def _opened(path: Path) -> BufferedReader | gzip.GzipFile:
    with path.open("rb") as file:
        is_compressed = file.read(len(_GZIP)) == _GZIP
    return gzip.open(path, "rb") if is_compressed else path.open("rb")


def _form(path: Path, called: str) -> DumpForm:
    """The form of a file or folder, by its content: names may say anything; reasons call it `called`.

    Raises:
        CommandError: it is missing, cannot be read, or has none of these forms.
    """
    try:
        if path.is_dir():
            if not (path / "toc.dat").is_file():
                raise CommandError(f"{called} is no archive of pg_dump: it has no toc.dat.")
            return DumpForm.ARCHIVE
        with path.open("rb") as file:
            head = file.read(len(_TAR_NAME))
        if head.startswith(_ARCHIVE):
            return DumpForm.ARCHIVE
        with _opened(path) as file:
            text = file.read(4096)
    except FileNotFoundError:
        raise CommandError(f"There is no file or folder {path}.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise CommandError(f"{called} cannot be read ({type(error).__name__}).") from None
    if head == _TAR_NAME or b"\0" in text or not text.strip():
        raise CommandError(
            f"{called} is neither an archive of pg_dump (custom or directory format) nor SQL, plain or"
            " in gzip."
        )
    return DumpForm.SQL


def _download(address: str, file: IO[bytes], report: Callable[[str], None]) -> None:
    timeout = httpx.Timeout(_CONNECT_SECONDS)
    # Compressed on the way, an archive would arrive as something else.
    headers = {"Accept-Encoding": "identity"}
    try:
        with httpx.stream("GET", address, headers=headers, follow_redirects=True, timeout=timeout) as answer:
            _require_protection(answer)
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


def _require_protection(answer: httpx.Response) -> None:
    """Refuse a file that another party could have exchanged on its way, although the address is of https.

    Raises:
        CommandError: a redirection has left https.
    """
    schemes = [each.url.scheme for each in [*answer.history, answer]]
    if schemes[0] == "https" and set(schemes) != {"https"}:
        raise CommandError("The address leads on to one without https. Nothing was fetched.")
