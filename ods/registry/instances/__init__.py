"""Everything that the registry records of instances and their jobs, and who may change it when.

What most functions may raise is said here once, beside what `ods.registry` says; nothing is changed then.

* `InstanceNotFoundError`: there is no such live instance, or none in the trash where that is meant.
* `RefusedError`: the status of the instance does not allow that (`ods.model.operations`), or it is protected,
  being copied, or not adopted yet; or others use what it would lose. The error says what helps.
* `NameTakenError`: another instance, or ODS instance, has the name, is about to get it, or has just left it.
* `InvalidError`: what a client has sent cannot be, such as contexts that another instance has.
* `InstallationNotConfirmedError`: the registry is a copy that the operator has not confirmed.
* `ValueError`: another release has written what is read.

Functions that return a bool raise none of these if the instance has moved on meanwhile: they return false.
Times are in UTC, without a zone.
"""
