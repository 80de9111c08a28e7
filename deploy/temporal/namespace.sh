#!/bin/sh
# Makes the namespace that TEMPORAL_NAMESPACE names, unless it is there. Its port opens before the server serves.
set -eu

tries=30
until temporal operator cluster health; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || exit 1
    sleep 2
done

# The retention is how long the history of a finished job can be looked at. `create` does not read TEMPORAL_NAMESPACE.
temporal operator namespace describe ||
    temporal operator namespace create --namespace "$TEMPORAL_NAMESPACE" --retention 30d
