"""From a database to a store of backups and back.

What most functions may raise is said here once: `BackupFaultError`, or one of its kinds, if the store or the
server is away (an outage) or refuses, a client program is missing, does not suit the server or has failed, or
no login restores. Functions that only read a database raise `DatabaseFaultError` for the server.
"""
