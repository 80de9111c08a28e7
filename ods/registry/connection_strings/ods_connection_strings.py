"""The connection strings that the ODS/API reads from `dbo.odsinstances`: their database, their encryption."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Self

from ods.registry.connection_strings.allowed_hosts import AllowedHosts
from ods.registry.connection_strings.connection_string import ConnectionString, InvalidConnectionStringError
from ods.registry.connection_strings.encryption import (
    COLUMN_LENGTH,
    Keyring,
    UndecipherableError,
    fits_column,
)
from ods.registry.connection_strings.npgsql import can_read
from ods.settings.settings import MAX_DATABASE_NAME_BYTES, AnySettings, InvalidSettingsError, Settings

_KNOWN_AT_MOST = 20_000
"""Encrypted connection strings whose databases are kept in memory: some 600 bytes each."""


class OdsConnectionStrings:
    """Makes the encrypted connection string of any ODS database from the configured shape.

    Attributes:
        allowed: servers beside the shape's that clients may name for being read.
    """

    def __init__(self, shape: ConnectionString, keys: Keyring, allowed: AllowedHosts) -> None:
        self.allowed = allowed
        self._shape = shape
        self._endpoints = set(shape.endpoints)
        self._keys = keys
        # Deletes ask of every ODS instance which database it leads to, of which there may be thousands. What
        # is kept are names of databases; each encryption has an IV of its own, and the keys stay.
        self._known_local_database = lru_cache(_KNOWN_AT_MOST)(self._local_database)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Read the connection string without a database (the shape), and the keys, from the settings.

        Raises:
            InvalidSettingsError: Npgsql could not read the shape, or it would not fit its column; or the
                allowed hosts cannot be read.
        """
        variable = "ODS_INSTANCE_CONNECTION_STRING"
        shape = _shape(settings.instance_connection_string.get_secret_value())
        if shape is None:
            raise InvalidSettingsError(
                f"{variable}: must look like host=…;port=…;username=…;password=…;database=…,"
                " with keywords and values that Npgsql knows"
            )
        try:
            allowed = AllowedHosts(settings.allowed_ods_hosts or "")
        except ValueError:
            raise InvalidSettingsError(
                "ODS_ALLOWED_ODS_HOSTS: must be hosts, addresses and networks with commas between them, each"
                " with a port or without, such as reports.example.org:5432, 10.20.0.0/16"
            ) from None
        strings = cls(shape, Keyring(settings.encryption_keys), allowed)
        if not fits_column(str(shape.with_database("x" * MAX_DATABASE_NAME_BYTES))):
            raise InvalidSettingsError(
                f"{variable}: is too long; encrypted, it must fit {COLUMN_LENGTH} characters"
            )
        return strings

    @property
    def role(self) -> str:
        """The role that the ODS/API connects with; empty if the connection string names none."""
        return self._shape.login[0]

    def encrypted(self, database: str) -> str:
        """What `dbo.odsinstances.connectionstring` holds for `database`."""
        return self.encrypted_text(str(self._shape.with_database(database)))

    def encrypted_text(self, text: str) -> str:
        """`text`, a whole connection string, as a column holds it (encrypted)."""
        return self._keys.encrypt(text)

    def decrypted(self, encrypted: str | None) -> ConnectionString:
        """The connection string in `dbo.odsinstances.connectionstring`."""
        return ConnectionString.parse(self._keys.decrypt(encrypted or ""))

    def renamed(self, old: str, new: str, encrypted: str | None) -> str | None:
        """The encrypted connection string with the database `new`, if it names `old`, on whatever server.

        Others are returned as they are: also what cannot be read, and what its column would be too short for.
        """
        try:
            found = self.decrypted(encrypted)
        except (UndecipherableError, InvalidConnectionStringError):
            return encrypted
        text = str(found.with_database(new))
        return self.encrypted_text(text) if found.database == old and fits_column(text) else encrypted

    def are_alike(self, one: str | None, other: str | None) -> bool:
        """Whether two encrypted connection strings are equal when decrypted: their IVs or keys may differ."""
        try:
            return one == other or self._keys.decrypt(one or "") == self._keys.decrypt(other or "")
        except UndecipherableError:
            return False

    def local_database(self, encrypted: str | None) -> str | None:
        """The database an encrypted connection string names, if it is on the server of the configured shape.

        It is if one of its hosts is one of the shape's, which may name a standby that the string does not.
        None as well for one that cannot be read: this service did not write it.
        """
        return self._known_local_database(encrypted)

    def other_server(self, encrypted: str | None) -> ConnectionString | None:
        """An encrypted connection string, decrypted, if it names another server than the configured shape.

        None as well for one that cannot be read: this service did not write it.
        """
        if self.local_database(encrypted) is not None:  # which is known without decrypting it again
            return None
        found = self._readable(encrypted)
        return found if found is not None and self._endpoints.isdisjoint(found.endpoints) else None

    def names_own_servers(self, string: ConnectionString) -> bool:
        """Whether each server of `string` is one of the configured shape, with the same host and port."""
        return self._endpoints.issuperset(string.endpoints)

    def _local_database(self, encrypted: str | None) -> str | None:
        found = self._readable(encrypted)
        return None if found is None or self._endpoints.isdisjoint(found.endpoints) else found.database

    def _readable(self, encrypted: str | None) -> ConnectionString | None:
        try:
            return self.decrypted(encrypted)
        except (UndecipherableError, InvalidConnectionStringError):
            return None


def _shape(text: str) -> ConnectionString | None:
    try:
        return ConnectionString.parse(text) if can_read(text) else None
    except InvalidConnectionStringError:
        return None


def connection_strings(settings: AnySettings) -> Mapping[str, OdsConnectionStrings]:
    """Those of every tenant, by its name.

    Raises:
        InvalidSettingsError: the settings of a tenant do not make any.
    """
    return {
        name: _of_tenant(own, f"ODS_TENANTS: {name}: " if settings.multi_tenant else "")
        for name, own in settings.tenants.items()
    }


def _of_tenant(settings: Settings, place: str) -> OdsConnectionStrings:
    try:
        return OdsConnectionStrings.from_settings(settings)
    except InvalidSettingsError as error:
        raise InvalidSettingsError(f"{place}{error}") from None
