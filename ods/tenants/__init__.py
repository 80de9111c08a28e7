"""What one tenant is made of, and what needs its registry and its server together.

What most functions may raise is said here once: `DatabaseFaultError` if the server is away, refuses, or a
right is missing; `BackupFaultError` if the store of backups is away, refuses, or is not configured, and its
kinds `OtherStoreError` and `SharedStoreError`; an error of SQLAlchemy if the registry is away;
`InstallationNotConfirmedError` if an operator must first say that changes are meant.
"""
