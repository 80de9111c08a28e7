-- The login that restores backups and makes online copies, and the role that what it has made belongs to. For psql
-- 14 or newer, as a superuser, after 10-ods.sql, with the login's password in POSTGRES_ODS_RESTORE_PASSWORD. What is
-- there is left as it is.
--
-- Code of the database that is restored runs as this login. So it owns nothing, is in no group and has no settings of
-- its own, and gets rights only in a database that the service has made to be filled. The owner has no login: a role
-- may change its own password.

\getenv restore_password POSTGRES_ODS_RESTORE_PASSWORD
CREATE ROLE ods_restore LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'restore_password';
CREATE ROLE ods_restored NOLOGIN;
GRANT ods_restore, ods_restored TO ods_service; -- what belongs to them, the service may back up, copy and give rights on
