"""For how long the ODS/API goes on using what it has read of its configuration."""

import math
from datetime import timedelta

CACHED = timedelta(minutes=10)
"""Twice what the ODS/API keeps by default (`Caching:OdsInstances:AbsoluteExpirationSeconds`)."""


def in_minutes(wait: timedelta) -> str:
    """How long that is, in words: the minutes that must have passed."""
    minutes = math.ceil(wait / timedelta(minutes=1))
    return f"{minutes} {'minute' if minutes == 1 else 'minutes'}"
