"""Education organizations, and the jobs that read them.

An Admin API may have made the table: without a primary key, in its first versions with ids of four bytes.
"""

from alembic import op
from sqlalchemy import text

from ods.registry.migrations.conflicts import require_none

revision = "0006"
down_revision = "0005"

_TABLE = """
CREATE TABLE IF NOT EXISTS adminapi.educationorganizations (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    instanceid int NOT NULL,
    instancename varchar(100) NOT NULL,
    educationorganizationid bigint NOT NULL,
    nameofinstitution varchar(75) NOT NULL,
    shortnameofinstitution varchar(75),
    discriminator varchar(128) NOT NULL,
    parentid bigint,
    odsdatabasename varchar(255),
    lastrefreshed timestamp DEFAULT now(),
    lastmodifieddate timestamp
)
"""

# One statement for whatever versions of the table there are: what is as it shall be, is left as it is.
_ADOPT = """
DO $$
BEGIN
    IF EXISTS (
        SELECT FROM information_schema.columns
        WHERE table_schema = 'adminapi' AND table_name = 'educationorganizations'
            AND column_name IN ('educationorganizationid', 'parentid') AND data_type <> 'bigint'
    ) THEN
        ALTER TABLE adminapi.educationorganizations
            ALTER COLUMN educationorganizationid TYPE bigint, ALTER COLUMN parentid TYPE bigint;
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_index
        WHERE indrelid = 'adminapi.educationorganizations'::regclass AND indisprimary
    ) THEN
        ALTER TABLE adminapi.educationorganizations ADD PRIMARY KEY (id);
    END IF;
END $$
"""

_COLUMNS = """
ALTER TABLE adminapi.educationorganizations
    ADD COLUMN IF NOT EXISTS shortnameofinstitution varchar(75),
    ADD COLUMN IF NOT EXISTS parentid bigint,
    ADD COLUMN IF NOT EXISTS odsdatabasename varchar(255),
    ADD COLUMN IF NOT EXISTS lastrefreshed timestamp DEFAULT now(),
    ADD COLUMN IF NOT EXISTS lastmodifieddate timestamp
"""

_REST = """
CREATE INDEX IF NOT EXISTS idx_educationorganizations_instanceid
    ON adminapi.educationorganizations (instanceid);
CREATE INDEX IF NOT EXISTS idx_educationorganizations_educationorganizationid
    ON adminapi.educationorganizations (educationorganizationid);
ALTER TABLE adminapi.jobstatuses ADD COLUMN IF NOT EXISTS odsinstanceid int;
CREATE UNIQUE INDEX uq_jobstatuses_refresh_waits ON adminapi.jobstatuses (coalesce(odsinstanceid, 0))
    WHERE operation = 'Refresh' AND status = 'Pending';
CREATE INDEX ix_jobstatuses_refresh_runs ON adminapi.jobstatuses (odsinstanceid)
    WHERE operation = 'Refresh' AND status = 'InProgress'
"""


def upgrade() -> None:
    """Create or adopt the table; let jobs say which ODS instance they read."""
    op.execute(text(_TABLE))
    require_none(
        "Rows of adminapi.educationorganizations share an id",
        "SELECT format('id %s', id) FROM adminapi.educationorganizations GROUP BY id HAVING count(*) > 1",
    )
    for statement in (_COLUMNS, _ADOPT, *_REST.split(";")):
        op.execute(text(statement))
