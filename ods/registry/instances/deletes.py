"""What deletes do: whether the database goes to the trash, stays, or is dropped, and is backed up first."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from ods.model.arguments import Way, drops_database, rules_of_way
from ods.model.operations import Operation
from ods.registry.storage.models import DbInstance


@dataclass(frozen=True)
class Delete:
    """How the client `by` wants an instance deleted.

    With None for `way` it goes to the trash, if there is one and something to keep. A `final_backup` is made,
    and verified, before the database is dropped.
    """

    way: Way | None = None
    by: str | None = None
    final_backup: bool = False


PLAIN_DELETE = Delete()
"""A delete as the operator has set it."""


@dataclass(frozen=True)
class DeleteRules:
    """What deletes do by the operator's settings; with a zero `trash`, databases are dropped at once.

    With `final_backup`, each is backed up before, also without a request for it.
    """

    trash: timedelta
    final_backup: bool

    def way(self, instance: DbInstance, delete: Delete) -> Way:
        """The way of a live instance's delete.

        A database that is backed up before it is dropped goes to the trash first, where nothing is written to
        it. So does an instance that never had a database by the registry, which may have been restored to
        before it had one.
        """
        if self.backs_up(instance, delete):
            return Way.TRASH
        if delete.way is not None:
            return delete.way
        return Way.TRASH if self.trash else Way.DROP

    def can_come_back(self, instance: DbInstance, delete: Delete) -> bool:
        """Whether a live instance deleted so stays in the trash, with the parts of its ODS instance.

        Not if it was never created: an ODS instance that has its id is another product's.
        """
        is_trashed = rules_of_way(self.way(instance, delete)).to_trash
        return is_trashed and instance.is_published and not self.backs_up(instance, delete)

    def forgotten_contexts(self, instance: DbInstance, delete: Delete) -> Mapping[str, str]:
        """The contexts that such a delete for good forgets together with a live instance: its own.

        A detach forgets none: the database stays in use, and the ODS/API chooses it by them.
        """
        is_left = rules_of_way(self.way(instance, delete)).releases
        return {} if is_left else instance.own_contexts or {}

    def may_back_up(self, delete: Delete) -> bool:
        """Whether such a delete makes a backup of an instance that has a database."""
        drops = delete.way is Way.DROP or (delete.way is None and not self.trash)
        return drops and (delete.final_backup or self.final_backup)

    def backs_up(self, instance: DbInstance, delete: Delete) -> bool:
        """Whether such a delete of the instance, or its purge from the trash, makes a backup of it first."""
        has_database = instance.is_in_trash or instance.is_published
        return self.may_back_up(delete) and has_database

    def drops_at_delete(self, instance: DbInstance) -> bool:
        """Whether a plain delete drops the database of a live instance at once."""
        is_whole = instance.is_live and instance.is_published
        return is_whole and not self.can_come_back(instance, PLAIN_DELETE)


def drops_at_retry(instance: DbInstance) -> bool:
    """Whether a retry of the instance's last job, which has failed, drops its database for good."""
    can_be_retried = instance.status in instance.rules.retry.sources
    drops = drops_database(Operation(instance.operation), instance.arguments)
    return can_be_retried and drops and instance.is_published
