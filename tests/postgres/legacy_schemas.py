"""The tables of an ODS/API and of an Admin API, as their published scripts leave them, with rows.

Of tables that have nothing to do with instances there are only those that others refer to.
"""

ODS_API_CLIENTS = """
CREATE SCHEMA dbo;
CREATE TABLE dbo.vendors (vendorid serial CONSTRAINT vendors_pk PRIMARY KEY, vendorname varchar);
CREATE TABLE dbo.applications (
    applicationid serial CONSTRAINT applications_pk PRIMARY KEY,
    applicationname varchar,
    vendor_vendorid int CONSTRAINT fk_applications_vendors REFERENCES dbo.vendors,
    claimsetname varchar(255),
    operationalcontexturi varchar(255) NOT NULL DEFAULT ''
);
CREATE TABLE dbo.apiclients (
    apiclientid serial CONSTRAINT apiclients_pk PRIMARY KEY,
    key varchar(50) NOT NULL,
    secret varchar(100) NOT NULL,
    name varchar(50) NOT NULL,
    isapproved boolean NOT NULL,
    usesandbox boolean NOT NULL,
    sandboxtype int NOT NULL,
    application_applicationid int CONSTRAINT fk_apiclients_applications REFERENCES dbo.applications,
    secretishashed boolean NOT NULL DEFAULT false
);
CREATE TABLE public."DeployJournal" (
    schemaversionsid serial CONSTRAINT "PK_DeployJournal_Id" PRIMARY KEY,
    scriptname varchar(255) NOT NULL,
    applied timestamp NOT NULL
);
INSERT INTO dbo.vendors (vendorname) VALUES ('A vendor');
INSERT INTO dbo.applications (applicationname, vendor_vendorid, claimsetname)
    VALUES ('A SIS', 1, 'SIS Vendor');
INSERT INTO dbo.apiclients (key, secret, name, isapproved, usesandbox, sandboxtype, application_applicationid)
    VALUES ('a key', 'a secret', 'A SIS', true, false, 0, 1);
INSERT INTO public."DeployJournal" (scriptname, applied) VALUES ('0010-Schemas.sql', '2024-01-01');
"""

ODS_API = (
    ODS_API_CLIENTS
    + """
CREATE TABLE dbo.odsinstances (
    odsinstanceid serial CONSTRAINT odsinstances_pk PRIMARY KEY,
    name varchar(100) NOT NULL,
    instancetype varchar(100),
    connectionstring varchar(1500)
);
CREATE UNIQUE INDEX ux_name_instancetype ON dbo.odsinstances (name, instancetype);
CREATE TABLE dbo.odsinstancecontexts (
    odsinstancecontextid serial CONSTRAINT odsinstancecontext_pkey PRIMARY KEY,
    odsinstance_odsinstanceid int NOT NULL
        CONSTRAINT fk_odsinstancecontext_odsinstance_odsinstanceid REFERENCES dbo.odsinstances,
    contextkey varchar(50) NOT NULL,
    contextvalue varchar(50) NOT NULL,
    CONSTRAINT uc_odsinstancecontext_odsinstance_odsinstanceid_contextkey
        UNIQUE (odsinstance_odsinstanceid, contextkey)
);
CREATE TABLE dbo.odsinstancederivatives (
    odsinstancederivativeid serial CONSTRAINT odsinstancederivative_pkey PRIMARY KEY,
    odsinstance_odsinstanceid int NOT NULL
        CONSTRAINT fk_odsinstancederivative_odsinstance_odsinstanceid REFERENCES dbo.odsinstances,
    derivativetype varchar(50) NOT NULL,
    connectionstring varchar(1500),
    CONSTRAINT uc_odsinstancederivative_odsinstance_odsinstanceid_derivativety
        UNIQUE (odsinstance_odsinstanceid, derivativetype)
);
CREATE TABLE dbo.apiclientodsinstances (
    apiclientodsinstanceid serial PRIMARY KEY,
    apiclient_apiclientid int NOT NULL
        CONSTRAINT fk_apiclientodsinstances_apiclients_apiclient_apiclientid REFERENCES dbo.apiclients,
    odsinstance_odsinstanceid int NOT NULL
        CONSTRAINT fk_apiclientodsinstances_odsinstances_odsinstance_odsinstanceid REFERENCES dbo.odsinstances
);
INSERT INTO dbo.odsinstances (name, instancetype, connectionstring)
    VALUES ('Untyped', NULL, 'a|b|c'), ('Created', 'Minimal', 'a|b|c');
INSERT INTO dbo.odsinstancecontexts (odsinstance_odsinstanceid, contextkey, contextvalue)
    VALUES (1, 'schoolYear', '2027');
INSERT INTO dbo.odsinstancederivatives (odsinstance_odsinstanceid, derivativetype, connectionstring)
    VALUES (1, 'Snapshot', 'a|b|c');
INSERT INTO dbo.apiclientodsinstances (apiclient_apiclientid, odsinstance_odsinstanceid) VALUES (1, 1);
"""
)
"""Version 7."""

ODS_API_FIRST_7 = (
    ODS_API
    + """
ALTER TABLE dbo.odsinstances
    ALTER COLUMN connectionstring TYPE text;
UPDATE dbo.odsinstances SET instancetype = 'ODS' WHERE instancetype IS NULL;
ALTER TABLE dbo.odsinstances ALTER COLUMN instancetype SET NOT NULL;
ALTER TABLE dbo.odsinstancederivatives ALTER COLUMN connectionstring TYPE varchar(500);
ALTER TABLE dbo.apiclientodsinstances
    DROP CONSTRAINT fk_apiclientodsinstances_odsinstances_odsinstance_odsinstanceid,
    ADD CONSTRAINT fk_apiclientodsinstances_odsinstances_odsinstance_odsinstanceid
        FOREIGN KEY (odsinstance_odsinstanceid) REFERENCES dbo.odsinstances ON DELETE CASCADE;
"""
)
"""Version 7 as it was first published: types without null, connection strings of other lengths, a cascade."""

ODS_API_6 = (
    ODS_API_CLIENTS
    + """
CREATE TABLE dbo.odsinstances (
    odsinstanceid serial CONSTRAINT odsinstances_pk PRIMARY KEY,
    name varchar(100) NOT NULL,
    instancetype varchar(100) NOT NULL,
    status varchar(100) NOT NULL,
    isextended boolean NOT NULL,
    version varchar(20) NOT NULL
);
CREATE UNIQUE INDEX ux_name_instancetype ON dbo.odsinstances (name, instancetype);
CREATE TABLE dbo.odsinstancecomponents (
    odsinstancecomponentid serial CONSTRAINT odsinstancecomponents_pk PRIMARY KEY,
    name varchar(100) NOT NULL,
    url varchar(200) NOT NULL,
    version varchar(20) NOT NULL,
    odsinstance_odsinstanceid int NOT NULL REFERENCES dbo.odsinstances
);
ALTER TABLE dbo.applications
    ADD COLUMN odsinstance_odsinstanceid int
        CONSTRAINT fk_applications_odsinstances REFERENCES dbo.odsinstances;
INSERT INTO dbo.odsinstances (name, instancetype, status, isextended, version)
    VALUES ('EdFi ODS', 'ODS', 'OK', true, '6.1');
UPDATE dbo.applications SET odsinstance_odsinstanceid = 1;
"""
)
"""Version 6: one ODS, whose connection string is not read."""

ADMIN_API_FIRST_2 = """
CREATE SCHEMA adminapi;
CREATE TABLE adminapi.applications (
    id int GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_applications PRIMARY KEY,
    concurrencytoken varchar(128),
    clientid varchar(256),
    clientsecret varchar(256),
    type varchar(256),
    consenttype varchar(256),
    permissions varchar,
    properties varchar,
    requirements varchar,
    displayname varchar(256),
    displaynames varchar,
    redirecturis varchar,
    postlogoutredirecturis varchar
);
CREATE TABLE adminapi.scopes (
    id int GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_scopes PRIMARY KEY,
    name varchar(256),
    concurrencytoken varchar(128),
    displayname varchar(256),
    resources varchar
);
CREATE TABLE adminapi.authorizations (
    id int GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_authorizations PRIMARY KEY,
    concurrencytoken varchar(128),
    applicationid int NOT NULL CONSTRAINT fk_authorizationsid_applicationid
        REFERENCES adminapi.applications ON DELETE RESTRICT,
    scopes varchar,
    subject varchar(256)
);
CREATE TABLE adminapi.tokens (
    id int GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_tokens PRIMARY KEY,
    concurrencytoken varchar(128),
    applicationid int,
    authorizationid int,
    type varchar(256),
    payload varchar,
    subject varchar(256)
);
INSERT INTO adminapi.applications (clientid, clientsecret, type, permissions, displayname) VALUES
    ('a-client', 'AQAAAAEAACcQAAAAEHNhbHQgb2YgMTYgYnl0ZXOGBcbL55hhuOSVImaPsm0BYRu7Sx15boWh+vqcBVJcyw==',
     'confidential', '["ept:token","gt:client_credentials","scp:edfi_admin_api/full_access"]', 'A client'),
    (NULL, NULL, 'public', NULL, NULL), (NULL, NULL, NULL, NULL, NULL);
INSERT INTO adminapi.scopes (name) VALUES ('edfi_admin_api/full_access');
INSERT INTO adminapi.authorizations (applicationid, subject) VALUES (1, 'a-client');
INSERT INTO adminapi.tokens (applicationid, type) VALUES (1, 'access_token');
"""
"""Version 2.0: no instances, no jobs."""

ADMIN_API_JOBS = (
    ADMIN_API_FIRST_2
    + """
CREATE TABLE adminapi.educationorganizations (
    id int GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_educationorganizations PRIMARY KEY,
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
);
CREATE TABLE adminapi.jobstatuses (
    id serial PRIMARY KEY,
    jobid varchar(150) NOT NULL CONSTRAINT uq_jobstatuses_jobid UNIQUE,
    status varchar(50) NOT NULL,
    errormessage varchar(1000)
);
INSERT INTO adminapi.educationorganizations
    (instanceid, instancename, educationorganizationid, nameofinstitution, discriminator)
    VALUES (1, 'EdFi ODS', 255901, 'Grand Bend ISD', 'edfi.LocalEducationAgency');
INSERT INTO adminapi.jobstatuses (jobid, status) VALUES ('RefreshEducationOrganizationsJob-1', 'Completed');
"""
)
"""Jobs that do not tell when they were."""

ADMIN_API = (
    ADMIN_API_JOBS
    + """
CREATE TABLE adminapi.dbinstances (
    id int GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_dbinstances PRIMARY KEY,
    name varchar(100) NOT NULL,
    odsinstanceid int,
    odsinstancename varchar(100),
    status varchar(75) NOT NULL,
    databasetemplate varchar(100) NOT NULL,
    databasename varchar(255),
    lastrefreshed timestamp NOT NULL DEFAULT now(),
    lastmodifieddate timestamp
);
ALTER TABLE adminapi.jobstatuses
    ADD COLUMN createdat timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    ADD COLUMN finishedat timestamp;
CREATE TABLE adminapi.auditlogs (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_auditlogs PRIMARY KEY,
    eventtype varchar(30) NOT NULL,
    "Timestamp" timestamp NOT NULL,
    clientid varchar(100)
);
ALTER TABLE adminapi.applications RENAME COLUMN type TO clienttype;
ALTER TABLE adminapi.applications
    ADD COLUMN applicationtype varchar(50),
    ADD COLUMN jsonwebkeyset varchar,
    ADD COLUMN settings varchar;
INSERT INTO adminapi.dbinstances
    (name, odsinstanceid, odsinstancename, status, databasetemplate, databasename, lastmodifieddate) VALUES
    ('Created', 2, 'Created', 'Completed', 'Minimal', 'EdFi_Ods_Created_Minimal', '2026-01-02'),
    ('Asked for', NULL, NULL, 'Pending', 'Sample', NULL, NULL),
    ('Gone', NULL, NULL, 'Deleted', 'Minimal', 'EdFi_Ods_Gone_Minimal', '2026-01-03');
INSERT INTO adminapi.auditlogs (eventtype, "Timestamp") VALUES ('Login', '2026-01-01');
"""
)
"""The last of version 2, with instances."""

LAYOUTS = {
    "ODS/API 7, Admin API 2": ODS_API + ADMIN_API,
    "ODS/API 7.0, Admin API 2 with jobs": ODS_API_FIRST_7 + ADMIN_API_JOBS,
    "ODS/API 6, Admin API 2.0": ODS_API_6 + ADMIN_API_FIRST_2,
    "ODS/API 7 alone": ODS_API,
    "Admin API 2 alone": ADMIN_API,
}

ADMIN_API_INSTANCES = """
CREATE SCHEMA IF NOT EXISTS adminapi;
CREATE TABLE IF NOT EXISTS adminapi.dbinstances (
    id int GENERATED ALWAYS AS IDENTITY,
    name varchar(100) NOT NULL,
    odsinstanceid int,
    odsinstancename varchar(100),
    status varchar(75) NOT NULL,
    databasetemplate varchar(100) NOT NULL,
    databasename varchar(255),
    lastrefreshed timestamp NOT NULL DEFAULT now(),
    lastmodifieddate timestamp,
    CONSTRAINT pk_dbinstances PRIMARY KEY (id)
);
CREATE INDEX IF NOT EXISTS idx_dbinstances_name ON adminapi.dbinstances (name);
CREATE INDEX IF NOT EXISTS idx_dbinstances_odsinstanceid ON adminapi.dbinstances (odsinstanceid);
"""
"""The script that makes the table of the instances, under the name that it had at first."""

ADMIN_API_RENAME = """
DO $$
DECLARE
    found text[] := ARRAY(
        SELECT table_name FROM information_schema.tables
        WHERE table_schema = 'adminapi' AND table_name IN ('dbinstances', 'odsinstancemanages'));
BEGIN
    IF found = ARRAY['dbinstances'] THEN
        ALTER TABLE adminapi.dbinstances RENAME TO odsinstancemanages;
        ALTER TABLE adminapi.odsinstancemanages RENAME CONSTRAINT pk_dbinstances TO pk_odsinstancemanages;
        ALTER INDEX adminapi.idx_dbinstances_name RENAME TO idx_odsinstancemanages_name;
        ALTER INDEX adminapi.idx_dbinstances_odsinstanceid RENAME TO idx_odsinstancemanages_odsinstanceid;
    END IF;
END $$
"""
"""The script of July 2026, which gives it another name."""
