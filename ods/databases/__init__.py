"""SQL on the server that holds the ODS databases: making, naming, closing and dropping those of instances.

What holds for every function here is said once, in this place:

* A `session` is one on the maintenance database. What changes a database of an instance takes a session that
  holds the fence of the instance, and may be repeated after any interruption.
* `owner` is the instance, with the database of it that is meant and the revision which that has or gets.
* Whatever uses a session raises `DatabaseFaultError` if a step fails: the server is away, full or locked (an
  outage, which the job waits for), a right is missing, sessions cannot be ended. Its reason says what to do.
* Where registry and server do not agree about a database, nothing is done to it: `NotOursError` if it does
  not carry the instance's mark, `DisagreementError` otherwise; `NameLeftError` and `FormerNameTakenError` if
  the ODS/API may still know the wanted name as that of another database.
"""
