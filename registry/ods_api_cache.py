"""For how long the ODS/API goes on using what it has read of its configuration."""

from datetime import timedelta

CACHED = timedelta(minutes=10)
"""Twice what the ODS/API keeps by default (`Caching:OdsInstances:AbsoluteExpirationSeconds`)."""
