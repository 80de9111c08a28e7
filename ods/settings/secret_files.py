"""Secrets that are mounted as files: `ODS_…_FILE` names the file, in place of the variable `ODS_…`.

A file that is replaced while the service runs is read again where that is safe: for the login of a database.
"""

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias
from urllib.parse import parse_qsl, urlsplit

from pydantic import SecretStr

_LOGIN_PARAMETERS = {"user", "password"}

DsnSource: TypeAlias = str | Callable[[], str]
"""The DSN of a database, or a function that gives it anew for each connection."""

_logger = logging.getLogger(__name__)


class UnreadableSecretError(ValueError):
    """A file does not hold a secret; the message says why, and neither its path nor what it holds."""


class FileSecret(SecretStr):
    """A secret that was read from a file.

    Args:
        value: the secret when it was read.
        read_again: reads it once more; raises `UnreadableSecretError` if that fails.
    """

    def __init__(self, value: str, read_again: Callable[[], str]) -> None:
        super().__init__(value)
        self.read_again = read_again

    @classmethod
    def of(cls, path: str) -> "FileSecret":
        """The secret in the file at `path`.

        Raises:
            UnreadableSecretError: the file cannot be read, is empty, or is no text in UTF-8.
        """
        read = partial(_content, Path(path))
        return cls(read(), read)


def from_environment(variable: str) -> FileSecret | None:
    """The secret in the file that `<variable>_FILE` names; None if that is not set.

    Raises:
        UnreadableSecretError: `variable` is set as well, or the file does not hold a secret.
    """
    path = os.environ.get(f"{variable}_FILE")
    if path is None:
        return None
    if variable in os.environ:
        raise UnreadableSecretError(f"must not be set together with {variable}; keep one of them")
    return FileSecret.of(path)


class CurrentDsn:
    """The DSN of a database, with the user and password that its file holds now.

    Only user and password change while the service runs: any other change in the file takes a restart.

    Args:
        dsn: the DSN, as it was at the start.
        name: the setting, for the log.
    """

    def __init__(self, dsn: SecretStr, name: str) -> None:
        self._secret = dsn
        self._name = name
        self._dsn = dsn.get_secret_value()
        self._refused: str | None = None

    def __call__(self) -> str:
        """The DSN to connect with; reads the file each time, which is small."""
        if isinstance(self._secret, FileSecret):
            try:
                self._accept(self._secret.read_again())
            except UnreadableSecretError as error:
                self._refuse(str(error), f"the file {error}")
        return self._dsn

    def _accept(self, found: str) -> None:
        if _without_login(found) == _without_login(self._dsn):
            self._dsn, self._refused = found, None
        else:
            self._refuse(found, "its file says more than another user or password, which takes a restart")

    def _refuse(self, found: str, reason: str) -> None:
        """Keep the DSN that is known, and log that once for each content that is refused."""
        if found != self._refused:
            _logger.warning("%s stays as it is: %s.", self._name, reason)
        self._refused = found


def current(dsn: DsnSource) -> str:
    """The DSN of a database for a connection that is opened now."""
    return dsn if isinstance(dsn, str) else dsn()


def _content(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UnreadableSecretError("is no text in UTF-8") from None
    except (OSError, ValueError) as error:
        raise UnreadableSecretError(f"cannot be read ({type(error).__name__})") from None
    secret = text.removesuffix("\n").removesuffix("\r")
    if not secret:
        raise UnreadableSecretError("is empty")
    return secret


def _without_login(dsn: str) -> tuple[object, ...] | None:
    """The parts of `dsn` but user and password; None if it cannot be parsed."""
    try:
        url = urlsplit(dsn)
    except ValueError:
        return None
    parameters = parse_qsl(url.query, keep_blank_values=True)
    others = sorted(pair for pair in parameters if pair[0] not in _LOGIN_PARAMETERS)
    return (url.scheme, url.netloc.rpartition("@")[2], url.path, others)
