"""ODS databases of the tests' own, and ODS instances that lead to them."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from ods.embedded import seeding
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.connection_strings.encryption import encrypt
from tests.servers import ENCRYPTION_KEY, NUMBERS, SERVICE_PASSWORD, service_dsn, session

SCHEMA = """
CREATE SCHEMA edfi;
CREATE TABLE edfi.educationorganization (
    educationorganizationid int PRIMARY KEY,
    nameofinstitution varchar(75) NOT NULL,
    shortnameofinstitution varchar(75),
    discriminator varchar(128)
);
CREATE TABLE edfi.localeducationagency (
    localeducationagencyid int PRIMARY KEY,
    parentlocaleducationagencyid int,
    educationservicecenterid int,
    stateeducationagencyid int
);
CREATE TABLE edfi.school (schoolid int PRIMARY KEY, localeducationagencyid int);
INSERT INTO edfi.educationorganization VALUES
    (1, 'A state', 'AS', 'edfi.StateEducationAgency'),
    (11, 'A district', NULL, 'edfi.LocalEducationAgency'),
    (111, 'A school', NULL, 'edfi.School');
INSERT INTO edfi.localeducationagency VALUES (11, NULL, NULL, 1);
INSERT INTO edfi.school VALUES (111, 11);
"""
"""A small database of an old Data Standard, without the tables of most kinds."""

ROWS = [
    (1, "A state", "AS", "edfi.StateEducationAgency", None),
    (11, "A district", None, "edfi.LocalEducationAgency", 1),
    (111, "A school", None, "edfi.School", 11),
]
"""What is read from it."""


@asynccontextmanager
async def ods_database(
    server: EmbeddedPostgres, script: str = SCHEMA, template: str | None = None
) -> AsyncIterator[str]:
    """A database that belongs to the service's role: made by `script`, or as a copy of `template`."""
    name = f"Ods_{next(NUMBERS)}"
    async with session(service_dsn(server, "postgres")) as maintenance:
        copied = template or "template1"
        await maintenance.execute(f'CREATE DATABASE "{name}" TEMPLATE "{copied}" STRATEGY file_copy')
        if template is None:
            async with session(service_dsn(server, name)) as connection:
                await connection.execute(script)
        yield name
        await maintenance.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def connection_string(port: int, database: str, user: str = seeding.SERVICE_ROLE, more: str = "") -> str:
    """Where a database is, as the ODS/API would write it."""
    return f"host=127.0.0.1;port={port};database={database};username={user};password={SERVICE_PASSWORD}{more}"


async def add_ods_instance(rows: asyncpg.Connection, name: str, connection_string: str | None) -> int:
    """An ODS instance that was made by hand; returns its id."""
    encrypted = connection_string and encrypt(connection_string, base64.b64decode(ENCRYPTION_KEY))
    added: int = await rows.fetchval(
        "INSERT INTO dbo.odsinstances (name, connectionstring) VALUES ($1, $2) RETURNING odsinstanceid",
        name,
        encrypted,
    )
    return added


async def organizations(rows: asyncpg.Connection, ods_instance_id: int) -> list[tuple[object, ...]]:
    """What the registry holds of an ODS instance."""
    return [
        tuple(row)
        for row in await rows.fetch(
            "SELECT educationorganizationid, nameofinstitution, shortnameofinstitution, discriminator,"
            " parentid FROM adminapi.educationorganizations WHERE instanceid = $1 ORDER BY 1",
            ods_instance_id,
        )
    ]
