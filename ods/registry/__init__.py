"""The tables of EdFi_Admin, and every statement on them.

What most functions may raise is said here once: an error of SQLAlchemy, or `OSError`, if the registry is away
or refuses; `MissingRightsError` if the service's role may not run a statement.
"""
