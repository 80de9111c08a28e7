"""The tables of the registry: here those that an ODS/API and an Admin API use as well.

There may be none of them, or those of any version of the two products, with rows. So each is made unless it
is there, gets what the first scripts of its product did not give it, and then our columns. An Admin API goes
on adding rows: each of our columns may be null, or has a default. The models say what they mean.
"""

from alembic import op
from sqlalchemy import Connection

from ods.registry.migrations import adopted_tables, own_tables
from ods.registry.migrations.adopted_rows import adopt_rows
from ods.registry.migrations.conflicts import require_none
from ods.registry.migrations.database_rows import record_databases

revision = "0001"
down_revision = None

# Indexes of names use them. A service's role may have no right to create an extension, hence a function.
_FUNCTIONS = r"""
-- The order of names that clients of the Admin API expect: that of code points, except that characters beyond
-- U+FFFF come before those from U+E000 on, because UTF-16 writes them as surrogates. So each of these gets
-- one of two characters put before it, which are in that order and beyond all others.
CREATE FUNCTION adminapi.utf16_order(words text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN regexp_replace(
        regexp_replace(words COLLATE "C", U&'([\E000-\FFFF])', U&'\E001\005C1', 'g'),
        U&'([\+010000-\+10FFFF])', U&'\E000\005C1', 'g'
    );
-- All runs of three letters, in lower case, which a GIN index holds for searches; of a shorter name none.
CREATE FUNCTION adminapi.trigrams(words text) RETURNS text[]
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE COST 1000
    RETURN ARRAY(
        SELECT DISTINCT substr(lower(words), place, 3)
        FROM generate_series(1, length(lower(words)) - 2) AS place
    );
"""

_ODS_INSTANCES = """
CREATE SCHEMA IF NOT EXISTS dbo;
CREATE TABLE IF NOT EXISTS dbo.odsinstances (
    odsinstanceid serial PRIMARY KEY,
    name varchar(100) NOT NULL,
    instancetype varchar(100),
    connectionstring varchar(1500),
    UNIQUE (name, instancetype)
);
ALTER TABLE dbo.odsinstances
    ADD COLUMN IF NOT EXISTS instancetype varchar(100),
    ADD COLUMN IF NOT EXISTS connectionstring varchar(1500),
    ALTER COLUMN instancetype DROP NOT NULL;
CREATE INDEX ix_odsinstances_order
    ON dbo.odsinstances ((adminapi.utf16_order(name) COLLATE "C"), odsinstanceid);

CREATE TABLE IF NOT EXISTS dbo.odsinstancecontexts (
    odsinstancecontextid serial PRIMARY KEY,
    odsinstance_odsinstanceid int NOT NULL REFERENCES dbo.odsinstances,
    contextkey varchar(50) NOT NULL,
    contextvalue varchar(50) NOT NULL,
    UNIQUE (odsinstance_odsinstanceid, contextkey)
);

CREATE TABLE IF NOT EXISTS dbo.odsinstancederivatives (
    odsinstancederivativeid serial PRIMARY KEY,
    odsinstance_odsinstanceid int NOT NULL REFERENCES dbo.odsinstances,
    derivativetype varchar(50) NOT NULL,
    connectionstring varchar(1500),
    UNIQUE (odsinstance_odsinstanceid, derivativetype)
);
ALTER TABLE dbo.odsinstancederivatives ADD COLUMN IF NOT EXISTS connectionstring varchar(1500);

CREATE TABLE IF NOT EXISTS dbo.apiclientodsinstances (
    apiclientodsinstanceid serial PRIMARY KEY,
    apiclient_apiclientid int NOT NULL,
    odsinstance_odsinstanceid int NOT NULL REFERENCES dbo.odsinstances
);
ALTER TABLE dbo.apiclientodsinstances ADD COLUMN IF NOT EXISTS apiclientodsinstanceid serial;
CREATE INDEX IF NOT EXISTS ix_apiclientodsinstances_odsinstance
    ON dbo.apiclientodsinstances (odsinstance_odsinstanceid);
"""

_EDUCATION_ORGANIZATIONS = """
CREATE TABLE IF NOT EXISTS adminapi.educationorganizations (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    instanceid int NOT NULL,
    instancename varchar(100) NOT NULL,
    educationorganizationid bigint NOT NULL,
    nameofinstitution varchar(75) NOT NULL,
    discriminator varchar(128) NOT NULL
);
ALTER TABLE adminapi.educationorganizations
    ADD COLUMN IF NOT EXISTS shortnameofinstitution varchar(75),
    ADD COLUMN IF NOT EXISTS parentid bigint,
    ADD COLUMN IF NOT EXISTS odsdatabasename varchar(255),
    ADD COLUMN IF NOT EXISTS lastrefreshed timestamp DEFAULT now(),
    ADD COLUMN IF NOT EXISTS lastmodifieddate timestamp;
CREATE INDEX IF NOT EXISTS idx_educationorganizations_instanceid
    ON adminapi.educationorganizations (instanceid);
CREATE INDEX IF NOT EXISTS idx_educationorganizations_educationorganizationid
    ON adminapi.educationorganizations (educationorganizationid);
"""

# Three defaults are set for later clients only: of those that are there, it is not known when they were made,
# their tokens name no generation, and all of them count.
_CLIENTS = """
CREATE TABLE IF NOT EXISTS adminapi.applications (
    id serial PRIMARY KEY,
    clientid varchar(256) NOT NULL UNIQUE
);
ALTER TABLE adminapi.applications
    ADD COLUMN IF NOT EXISTS clientsecret text,
    ADD COLUMN IF NOT EXISTS displayname varchar(256),
    ADD COLUMN IF NOT EXISTS permissions text;
ALTER TABLE adminapi.applications
    ADD COLUMN scope varchar(20) NOT NULL DEFAULT 'full_access'
        CONSTRAINT ck_applications_scope CHECK (scope IN ('full_access', 'read_only')),
    -- Null: if it has full access.
    ADD COLUMN backupdownload boolean,
    ADD COLUMN enabled boolean NOT NULL DEFAULT true,
    ADD COLUMN generation uuid,
    ADD COLUMN tokenssince timestamp,
    ADD COLUMN createdat timestamp,
    ADD COLUMN lastusedat timestamp,
    ADD COLUMN expiresat timestamp;
ALTER TABLE adminapi.applications
    ALTER COLUMN generation SET DEFAULT gen_random_uuid(),
    -- The first token of a client that an Admin API adds may have an earlier time: its clock may be late.
    ALTER COLUMN tokenssince SET DEFAULT timezone('utc', now()) - interval '5 seconds',
    ALTER COLUMN createdat SET DEFAULT timezone('utc', now());
"""

_JOBS = """
CREATE TABLE IF NOT EXISTS adminapi.jobstatuses (
    id serial PRIMARY KEY,
    jobid varchar(150) NOT NULL UNIQUE,
    status varchar(50) NOT NULL,
    errormessage text,
    createdat timestamp NOT NULL,
    finishedat timestamp
);
ALTER TABLE adminapi.jobstatuses
    ADD COLUMN IF NOT EXISTS errormessage text,
    ADD COLUMN IF NOT EXISTS createdat timestamp NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS finishedat timestamp;
ALTER TABLE adminapi.jobstatuses
    ADD COLUMN startedat timestamp, ADD COLUMN dbinstanceid int, ADD COLUMN odsinstanceid int,
    ADD COLUMN operation varchar(20), ADD COLUMN databasetemplate varchar(100),
    ADD COLUMN waitingfor text, ADD COLUMN waitingsince timestamp, ADD COLUMN waitinguntil timestamp,
    ADD COLUMN waitedseconds float8 NOT NULL DEFAULT 0,
    ADD COLUMN percent int, ADD COLUMN etaseconds int;
CREATE INDEX ix_jobstatuses_dbinstanceid ON adminapi.jobstatuses (dbinstanceid);
CREATE INDEX ix_jobstatuses_newest ON adminapi.jobstatuses (createdat, id);
CREATE INDEX ix_jobstatuses_status ON adminapi.jobstatuses (status, createdat, id);
CREATE INDEX ix_jobstatuses_duration ON adminapi.jobstatuses (operation, databasetemplate, finishedat);
-- At most one refresh of an ODS instance, or of all of them, waits.
CREATE UNIQUE INDEX uq_jobstatuses_refresh_waits ON adminapi.jobstatuses (coalesce(odsinstanceid, 0))
    WHERE operation = 'Refresh' AND status = 'Pending';
CREATE INDEX ix_jobstatuses_refresh_runs ON adminapi.jobstatuses (odsinstanceid)
    WHERE operation = 'Refresh' AND status = 'InProgress';
"""

# The Admin API's script of July 2026 renames the table, `pk_dbinstances` and the two indexes `idx_…`: without
# one of them it fails.
_INSTANCES = """
CREATE TABLE IF NOT EXISTS adminapi.dbinstances (
    id int GENERATED BY DEFAULT AS IDENTITY CONSTRAINT pk_dbinstances PRIMARY KEY,
    name varchar(100) NOT NULL,
    status varchar(75) NOT NULL,
    databasetemplate varchar(100) NOT NULL
);
ALTER TABLE adminapi.dbinstances
    ADD COLUMN IF NOT EXISTS odsinstanceid int,
    ADD COLUMN IF NOT EXISTS odsinstancename varchar(100),
    ADD COLUMN IF NOT EXISTS databasename varchar(255),
    ADD COLUMN IF NOT EXISTS lastrefreshed timestamp NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS lastmodifieddate timestamp;
ALTER TABLE adminapi.dbinstances
    -- What was asked, and how far it is. `status` has the words of the Admin API, `state` always ours.
    ADD COLUMN state varchar(75), ADD COLUMN operation varchar(20),
    ADD COLUMN arguments jsonb NOT NULL DEFAULT '{"origin": {}}', ADD COLUMN errormessage text,
    ADD COLUMN jobnumber int NOT NULL DEFAULT 0, ADD COLUMN attempt int NOT NULL DEFAULT 0,
    ADD COLUMN request uuid NOT NULL DEFAULT gen_random_uuid(),
    ADD COLUMN outages int NOT NULL DEFAULT 0,
    ADD COLUMN cancelledattempt int,
    -- By what databases are known to be the instance's, and which of them is its own.
    ADD COLUMN mark uuid NOT NULL DEFAULT gen_random_uuid(),
    ADD COLUMN databaseid uuid NOT NULL DEFAULT gen_random_uuid(),
    -- What a rename, an undelete or a reset makes of it.
    ADD COLUMN newname varchar(100), ADD COLUMN newdatabasename varchar(255),
    ADD COLUMN undodue boolean NOT NULL DEFAULT false, ADD COLUMN replacement jsonb,
    -- What clients say about it.
    ADD COLUMN isprotected boolean NOT NULL DEFAULT false, ADD COLUMN description varchar(500),
    ADD COLUMN labels jsonb, ADD COLUMN owncontexts jsonb,
    -- What comes back with it from the trash.
    ADD COLUMN setaside jsonb;
-- What is being deleted waits for its delete: the word for what is in progress would have it created.
UPDATE adminapi.dbinstances SET
    state = CASE status WHEN 'DeleteInProgress' THEN 'Pending_Delete'
                        ELSE adminapi.state_of_status(status) END,
    status = CASE status WHEN 'DeleteInProgress' THEN 'PendingDelete' ELSE status END;
"""
_STATES = "'Pending', 'InProgress', 'Completed', 'Error', 'Pending_Delete', 'Deleted', 'Delete_Failed'"
# What is deleted or being purged has no names any more. An undelete under another name reserves that, and not
# the instance's own, which another instance may have by then.
_LIVE = "state <> 'Deleted' AND operation <> 'Purge'"
_HAS_NAMES = f"{_LIVE} AND (operation <> 'Undelete' OR newname IS NULL)"
_HAS_ORIGIN = (
    "(jsonb_typeof(arguments) = 'object' AND jsonb_typeof(arguments -> 'origin') = 'object'"
    " AND arguments - 'origin' = '{}') IS TRUE"
)
_INSTANCE_RULES = f"""
ALTER TABLE adminapi.dbinstances
    ALTER COLUMN state SET NOT NULL,
    ADD CONSTRAINT ck_dbinstances_state CHECK (state IN ({_STATES})),
    ALTER COLUMN operation SET NOT NULL,
    -- No row of a delete or a purge leaves open whether it drops at once.
    ADD CONSTRAINT ck_dbinstances_arguments CHECK (
        CASE operation
            WHEN 'Delete' THEN arguments IN (
                '{{"keep": true, "backup_first": false}}', '{{"keep": true, "backup_first": true}}',
                '{{"keep": false, "backup_first": false}}', '{{"keep": false, "backup_first": true}}')
            WHEN 'Purge' THEN arguments IN ('{{"backup_first": false}}', '{{"backup_first": true}}')
            WHEN 'Create' THEN {_HAS_ORIGIN}
            WHEN 'Reset' THEN {_HAS_ORIGIN}
            ELSE arguments = '{{}}'
        END
    );
CREATE INDEX IF NOT EXISTS idx_dbinstances_name ON adminapi.dbinstances (name);
CREATE INDEX IF NOT EXISTS idx_dbinstances_odsinstanceid ON adminapi.dbinstances (odsinstanceid);
CREATE UNIQUE INDEX uq_dbinstances_live_name ON adminapi.dbinstances (name) WHERE {_HAS_NAMES};
CREATE UNIQUE INDEX uq_dbinstances_live_databasename
    ON adminapi.dbinstances (databasename) WHERE {_HAS_NAMES};
CREATE UNIQUE INDEX uq_dbinstances_live_odsinstanceid ON adminapi.dbinstances (odsinstanceid) WHERE {_LIVE};
CREATE UNIQUE INDEX uq_dbinstances_newname ON adminapi.dbinstances (newname) WHERE {_LIVE};
CREATE UNIQUE INDEX uq_dbinstances_newdatabasename ON adminapi.dbinstances (newdatabasename) WHERE {_LIVE};
CREATE INDEX ix_dbinstances_order ON adminapi.dbinstances ((adminapi.utf16_order(name) COLLATE "C"), id);
CREATE INDEX ix_dbinstances_search ON adminapi.dbinstances USING gin (adminapi.trigrams(name));
CREATE INDEX ix_dbinstances_modified ON adminapi.dbinstances (lastmodifieddate);
-- Of the few rows that passes and requests look for: the others cost these nothing when a job writes them.
CREATE INDEX ix_dbinstances_waiting ON adminapi.dbinstances (id) WHERE state IN ('Pending', 'Pending_Delete');
CREATE INDEX ix_dbinstances_labels
    ON adminapi.dbinstances USING gin (labels jsonb_path_ops) WHERE labels IS NOT NULL;
CREATE INDEX ix_dbinstances_madeof ON adminapi.dbinstances (id) WHERE arguments -> 'origin' <> '{{}}';
CREATE INDEX ix_dbinstances_replacement ON adminapi.dbinstances (id) WHERE replacement IS NOT NULL;
CREATE INDEX ix_dbinstances_undodue ON adminapi.dbinstances (id) WHERE undodue;
"""


def upgrade() -> None:
    """Create or adopt the tables, then set the rules, unless rows break them."""
    connection = op.get_bind()
    adopted_tables.require_lower_case(connection)
    for script in (_FUNCTIONS, _ODS_INSTANCES, _EDUCATION_ORGANIZATIONS, _CLIENTS, _JOBS, _INSTANCES):
        _run(connection, script)
    adopted_tables.fit(connection)
    require_none(
        connection,
        "Unknown statuses in adminapi.dbinstances",
        f"SELECT format('id %s: %s', id, status) FROM adminapi.dbinstances WHERE state NOT IN ({_STATES})",  # noqa: S608 - constants
    )
    _run(connection, own_tables.CREATE)
    record_databases(connection, "dbinstances")
    adopt_rows(connection, "adminapi.dbinstances")
    _run(connection, _INSTANCE_RULES)


def _run(connection: Connection, script: str) -> None:
    # One statement at a time: asyncpg prepares what it executes.
    for statement in script.split(";\n"):
        if statement.strip():
            connection.exec_driver_sql(statement)
