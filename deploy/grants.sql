-- What the service needs as the role ods_service, and no more: for psql, as a superuser.
-- The role is there, and `ods migrate`, as the tables' owner, has made what they lacked.

-- The registry
\connect "EdFi_Admin"
GRANT CONNECT ON DATABASE "EdFi_Admin" TO ods_service;
GRANT USAGE ON SCHEMA adminapi TO ods_service;
GRANT USAGE ON SCHEMA dbo TO ods_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON dbo.odsinstances TO ods_service;
DO $$ BEGIN EXECUTE 'GRANT UPDATE ON SEQUENCE ' || pg_get_serial_sequence('dbo.odsinstances', 'odsinstanceid') || ' TO ods_service'; END $$;
GRANT SELECT, INSERT, UPDATE, DELETE ON dbo.odsinstancecontexts TO ods_service;
DO $$ BEGIN EXECUTE 'GRANT USAGE ON SEQUENCE ' || pg_get_serial_sequence('dbo.odsinstancecontexts', 'odsinstancecontextid') || ' TO ods_service'; END $$;
GRANT SELECT, INSERT, UPDATE, DELETE ON dbo.odsinstancederivatives TO ods_service;
DO $$ BEGIN EXECUTE 'GRANT USAGE ON SEQUENCE ' || pg_get_serial_sequence('dbo.odsinstancederivatives', 'odsinstancederivativeid') || ' TO ods_service'; END $$;
GRANT SELECT, DELETE ON dbo.apiclientodsinstances TO ods_service;
GRANT SELECT, INSERT, UPDATE ON adminapi.managed_instances TO ods_service;
DO $$ BEGIN IF to_regclass('adminapi.dbinstances_id_seq') IS NOT NULL THEN GRANT UPDATE ON SEQUENCE adminapi.dbinstances_id_seq TO ods_service; END IF; END $$;
DO $$ BEGIN IF to_regclass('adminapi.odsinstancemanages_id_seq') IS NOT NULL THEN GRANT UPDATE ON SEQUENCE adminapi.odsinstancemanages_id_seq TO ods_service; END IF; END $$;
GRANT SELECT, INSERT, UPDATE, DELETE ON adminapi.databases TO ods_service;
DO $$ BEGIN EXECUTE 'GRANT USAGE ON SEQUENCE ' || pg_get_serial_sequence('adminapi.databases', 'id') || ' TO ods_service'; END $$;
GRANT SELECT, INSERT, UPDATE, DELETE ON adminapi.databaserevisions TO ods_service;
GRANT SELECT, INSERT, UPDATE ON adminapi.jobstatuses TO ods_service;
DO $$ BEGIN EXECUTE 'GRANT USAGE ON SEQUENCE ' || pg_get_serial_sequence('adminapi.jobstatuses', 'id') || ' TO ods_service'; END $$;
GRANT SELECT, INSERT, UPDATE, DELETE ON adminapi.backups TO ods_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON adminapi.applications TO ods_service;
DO $$ BEGIN EXECUTE 'GRANT USAGE ON SEQUENCE ' || pg_get_serial_sequence('adminapi.applications', 'id') || ' TO ods_service'; END $$;
GRANT SELECT, INSERT ON adminapi.audit TO ods_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON adminapi.idempotencykeys TO ods_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON adminapi.consolesessions TO ods_service;
GRANT SELECT, INSERT, DELETE ON adminapi.signinlinks TO ods_service;
GRANT SELECT, INSERT, DELETE ON adminapi.signinattempts TO ods_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON adminapi.attemptcounts TO ods_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON adminapi.leftdatabasenames TO ods_service;
GRANT SELECT, INSERT, UPDATE ON adminapi.servedschedules TO ods_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON adminapi.databasesizes TO ods_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON adminapi.totalsizes TO ods_service;
GRANT SELECT, UPDATE ON adminapi.installation TO ods_service;
GRANT SELECT, UPDATE ON adminapi.registration TO ods_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON adminapi.educationorganizations TO ods_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON adminapi.snapshots TO ods_service;
DO $$ BEGIN EXECUTE 'GRANT USAGE ON SEQUENCE ' || pg_get_serial_sequence('adminapi.snapshots', 'id') || ' TO ods_service'; END $$;
GRANT SELECT ON adminapi.ods_migrations TO ods_service;
DO $$ BEGIN IF NOT has_function_privilege('ods_service', 'adminapi.utf16_order(text)', 'EXECUTE') THEN GRANT EXECUTE ON FUNCTION adminapi.utf16_order(text) TO ods_service; END IF; END $$;
DO $$ BEGIN IF NOT has_function_privilege('ods_service', 'adminapi.trigrams(text)', 'EXECUTE') THEN GRANT EXECUTE ON FUNCTION adminapi.trigrams(text) TO ods_service; END IF; END $$;
DO $$ BEGIN IF NOT has_function_privilege('ods_service', 'adminapi.follow_rename()', 'EXECUTE') THEN GRANT EXECUTE ON FUNCTION adminapi.follow_rename() TO ods_service; END IF; END $$;
DO $$ BEGIN IF NOT has_function_privilege('ods_service', 'adminapi.prune_audit(interval, integer)', 'EXECUTE') THEN GRANT EXECUTE ON FUNCTION adminapi.prune_audit(interval, integer) TO ods_service; END IF; END $$;
DO $$ BEGIN IF NOT has_function_privilege('ods_service', 'pg_catalog.pg_control_system()', 'EXECUTE') THEN GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system() TO ods_service; END IF; END $$;
DO $$ BEGIN IF NOT has_function_privilege('ods_service', 'pg_catalog.pg_control_checkpoint()', 'EXECUTE') THEN GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_checkpoint() TO ods_service; END IF; END $$;
DO $$ BEGIN IF NOT has_function_privilege('ods_service', 'pg_catalog.pg_control_recovery()', 'EXECUTE') THEN GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_recovery() TO ods_service; END IF; END $$;
DO $$ BEGIN IF to_regclass('dbo.applications') IS NOT NULL THEN GRANT SELECT ON dbo.applications TO ods_service; END IF; END $$;
DO $$ BEGIN IF to_regclass('dbo.apiclients') IS NOT NULL THEN GRANT SELECT ON dbo.apiclients TO ods_service; END IF; END $$;
DO $$ BEGIN IF to_regclass('dbo.applicationeducationorganizations') IS NOT NULL THEN GRANT SELECT ON dbo.applicationeducationorganizations TO ods_service; END IF; END $$;
DO $$ BEGIN IF to_regclass('dbo.profileapplications') IS NOT NULL THEN GRANT SELECT ON dbo.profileapplications TO ods_service; END IF; END $$;

-- The server of the ODS databases
\connect "EdFi_Master"
ALTER ROLE ods_service CREATEDB;
GRANT pg_signal_backend TO ods_service;
GRANT pg_read_all_stats TO ods_service;
GRANT ods_restore TO ods_service;
GRANT ods_restored TO ods_service;
GRANT CONNECT ON DATABASE "EdFi_Master" TO ods_service;
DO $$ BEGIN IF NOT has_function_privilege('ods_service', 'pg_catalog.pg_control_system()', 'EXECUTE') THEN GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system() TO ods_service; END IF; END $$;
DO $$ BEGIN IF EXISTS (SELECT FROM pg_database WHERE datname = 'EdFi_Ods_Minimal_Template') THEN GRANT CONNECT ON DATABASE "EdFi_Ods_Minimal_Template" TO ods_service; END IF; END $$;
DO $$ BEGIN IF EXISTS (SELECT FROM pg_database WHERE datname = 'EdFi_Ods_Minimal_Template') THEN ALTER DATABASE "EdFi_Ods_Minimal_Template" IS_TEMPLATE true; END IF; END $$;
DO $$ BEGIN IF EXISTS (SELECT FROM pg_database WHERE datname = 'EdFi_Ods_Populated_Template') THEN GRANT CONNECT ON DATABASE "EdFi_Ods_Populated_Template" TO ods_service; END IF; END $$;
DO $$ BEGIN IF EXISTS (SELECT FROM pg_database WHERE datname = 'EdFi_Ods_Populated_Template') THEN ALTER DATABASE "EdFi_Ods_Populated_Template" IS_TEMPLATE true; END IF; END $$;
