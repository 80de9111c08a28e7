-- The rights of the role admin_api, as which the Admin API of docker-compose.yml connects, in EdFi_Admin and in
-- EdFi_Security. For psql, as a superuser, in each of them; the role is there. What a script of the Admin API adds
-- later needs it again.
--
-- ODS instances it may read: to change them, and instances, jobs and the audit trail, is this service's alone.

SELECT format('GRANT USAGE ON SCHEMA %I TO admin_api', nspname)
FROM pg_namespace WHERE nspname IN ('dbo', 'adminapi') \gexec

SELECT format('GRANT SELECT ON %s TO admin_api', oid::regclass)
FROM pg_class WHERE relkind = 'r' AND relnamespace = to_regnamespace('dbo') \gexec

CREATE TEMPORARY VIEW written AS
SELECT oid FROM pg_class WHERE relkind = 'r' AND (
    relnamespace = to_regnamespace('dbo')
        AND relname NOT IN ('odsinstances', 'odsinstancecontexts', 'odsinstancederivatives')
    OR relnamespace = to_regnamespace('adminapi')
        AND relname IN ('applications', 'authorizations', 'scopes', 'tokens')
);
SELECT format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO admin_api', oid::regclass) FROM written \gexec
SELECT format('GRANT USAGE ON SEQUENCE %s TO admin_api', objid::regclass)
FROM pg_depend JOIN pg_class ON pg_class.oid = objid AND relkind = 'S'
WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND refobjid IN (SELECT oid FROM written) \gexec
