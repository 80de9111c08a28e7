"""How long what may be wanted back is kept although its time is over."""

from datetime import timedelta

KEPT_IN_DOUBT = timedelta(days=7)
"""How long a database stays in the trash at least, or a backup does not expire, whatever the settings say.

Clients were told that the reset had failed which has replaced the database, or which was to bring it or the
backup back; or an operator has handed over another one, or has confirmed a registry that may have been
restored; or a client has protected the instance for a time.
"""
