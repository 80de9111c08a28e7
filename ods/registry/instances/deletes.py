"""What deletes do: whether the database goes to the trash, stays, or is dropped, and is backed up first."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from ods.model.arguments import Way, drops_database, rules_of_way
from ods.model.operations import Operation
from ods.registry.storage.models import DbInstance


@dataclass(frozen=True)
class Delete:
    """How an instance is deleted.

    Attributes:
        way: None: to the trash, if there is one and something to keep.
        by: the client that requests it; None if it is not known.
        final_backup: whether a backup is made, and verified, before the database is dropped.
    """

    way: Way | None = None
    by: str | None = None
    final_backup: bool = False


PLAIN_DELETE = Delete()
"""A delete that says no more: what it does is as the operator has set."""


@dataclass(frozen=True)
class DeleteRules:
    """What each delete does, by what the operator has set.

    Attributes:
        trash: how long a deleted instance can come back; zero if its database is dropped at once.
        final_backup: whether a backup is made before a database is dropped, also without a request for it.
    """

    trash: timedelta
    final_backup: bool

    def way(self, instance: DbInstance, delete: Delete) -> Way:
        """The way of a live instance's delete.

        What is backed up before it is dropped goes to the trash first, where nothing is written to it. So
        does what never had a database by the registry, which may have been restored to before it had one.
        """
        if self.backs_up(instance, delete):
            return Way.TRASH
        if delete.way is not None:
            return delete.way
        return Way.TRASH if self.trash else Way.DROP

    def can_come_back(self, instance: DbInstance, delete: Delete) -> bool:
        """Whether a live instance that is deleted so stays in the trash, with the parts of its ODS instance.

        Not one that was never created: an ODS instance that has its id is another product's.
        """
        is_trashed = rules_of_way(self.way(instance, delete)).to_trash
        return is_trashed and instance.published_at is not None and not self.backs_up(instance, delete)

    def forgotten_contexts(self, instance: DbInstance, delete: Delete) -> Mapping[str, str]:
        """The contexts that such a delete for good takes along with a live instance: its own.

        A detach leaves the database in use, which the ODS/API chooses by them.
        """
        is_left = rules_of_way(self.way(instance, delete)).releases
        return {} if is_left else instance.own_contexts or {}

    def may_back_up(self, delete: Delete) -> bool:
        """Whether such a delete makes a backup of an instance that has a database."""
        drops = delete.way is Way.DROP or (delete.way is None and not self.trash)
        return drops and (delete.final_backup or self.final_backup)

    def backs_up(self, instance: DbInstance, delete: Delete) -> bool:
        """Whether such a delete of the instance, or its purge from the trash, makes a backup of it first."""
        has_database = instance.is_in_trash or instance.published_at is not None
        return self.may_back_up(delete) and has_database

    def drops_at_delete(self, instance: DbInstance) -> bool:
        """Whether a plain delete drops the database of a live instance at once."""
        is_whole = instance.is_live and instance.published_at is not None
        return is_whole and not self.can_come_back(instance, PLAIN_DELETE)


def drops_at_retry(instance: DbInstance) -> bool:
    """Whether a retry of the instance's last job, which has failed, drops its database for good."""
    can_be_retried = instance.status in instance.rules.retry.sources
    drops = drops_database(Operation(instance.operation), instance.arguments)
    return can_be_retried and drops and instance.published_at is not None
