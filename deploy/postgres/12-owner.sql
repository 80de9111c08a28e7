-- The role that owns the registry's tables, as which `ods migrate` alone connects. For psql 14 or newer, as a
-- superuser, after 10-ods.sql, with the role's password in POSTGRES_ODS_OWNER_PASSWORD. With API and
-- worker stopped, also later: what ods_service owns in the registry is handed over.
--
-- So API and worker can add to the audit trail, and neither change nor delete what is in it. `ods migrate --grant-to
-- ods_service` gives them what they need.

\getenv owner_password POSTGRES_ODS_OWNER_PASSWORD
CREATE ROLE ods_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'owner_password';
ALTER DATABASE "EdFi_Admin" OWNER TO ods_owner;

\connect "EdFi_Admin"
SELECT format('ALTER SCHEMA %I OWNER TO ods_owner', nspname) FROM pg_namespace
WHERE nspowner = 'ods_service'::regrole \gexec
SELECT format('ALTER %s %s OWNER TO ods_owner', CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, oid::regclass)
FROM pg_class WHERE relowner = 'ods_service'::regrole AND relkind IN ('r', 'v') \gexec
SELECT format('ALTER FUNCTION %s OWNER TO ods_owner', oid::regprocedure) FROM pg_proc
WHERE proowner = 'ods_service'::regrole \gexec
