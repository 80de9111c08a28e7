#!/bin/sh
# Makes Temporal's tables, or brings them to the version of this image's server; safe to repeat.
set -eu

sql() {
    temporal-sql-tool --plugin postgres12 --ep postgres -p 5432 -u temporal --db "$@"
}

update() {
    sql "$1" setup-schema -v 0.0
    sql "$1" update-schema -d "/etc/temporal/schema/postgresql/v12/$2/versioned"
}

update temporal temporal
update temporal_visibility visibility
