-- Temporal's role and its two databases; their tables are made by deploy/temporal/schema.sh. For psql, as a
-- superuser, with the role's password in POSTGRES_TEMPORAL_PASSWORD.

\getenv temporal_password POSTGRES_TEMPORAL_PASSWORD
CREATE ROLE temporal LOGIN NOSUPERUSER PASSWORD :'temporal_password';
CREATE DATABASE temporal OWNER temporal;
CREATE DATABASE temporal_visibility OWNER temporal;
