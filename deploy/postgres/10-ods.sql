-- The role that API and worker connect as, the registry and the maintenance database. For psql 14 or newer, as
-- a superuser, with the role's password in POSTGRES_ODS_SERVICE_PASSWORD. On an existing server, too: databases
-- that are there are left as they are.
--
-- Template databases are the operator's own. Each is loaded once, for example:
--   createdb --username postgres EdFi_Ods_Minimal_Template
--   pg_restore --username postgres --dbname EdFi_Ods_Minimal_Template minimal.dump
--   psql --username postgres --command 'ALTER DATABASE "EdFi_Ods_Minimal_Template" IS_TEMPLATE true ALLOW_CONNECTIONS false'
-- Any role that may create databases may clone a template, and a closed one has no sessions to wait for.

\getenv service_password POSTGRES_ODS_SERVICE_PASSWORD
CREATE ROLE ods_service LOGIN NOSUPERUSER CREATEDB PASSWORD :'service_password';
GRANT pg_signal_backend TO ods_service; -- dropping a database ends the sessions of other roles in it
GRANT pg_read_all_stats TO ods_service; -- the usage of an instance is told of the sessions of other roles

SELECT 'CREATE DATABASE "EdFi_Admin" OWNER ods_service'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'EdFi_Admin') \gexec

-- It stays empty: the sessions that create and drop databases have to be in some other one.
SELECT 'CREATE DATABASE "EdFi_Master"'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'EdFi_Master') \gexec
