"""Instances as jobs know them, whose registry knows some revisions of their databases."""

import uuid
from dataclasses import replace
from typing import TypeVar

from ods.databases.ownership import KnownOwner, Owner
from ods.model.revisions import KnownRevisions, Revision, RevisionState, revision_by

OwnerT = TypeVar("OwnerT", bound=Owner)


def requesting(owner: Owner, *databases: str) -> KnownOwner:
    """The instance at the job of a new request, which intends a revision of these databases, or of its own.

    The registry still knows what it knew before.
    """
    known = owner.known if isinstance(owner, KnownOwner) else KnownRevisions()
    request = str(uuid.uuid4())
    intended = [
        Revision(revision_by(request, 1, one), one, RevisionState.INTENDED)
        for one in databases or (owner.database_id,)
    ]
    return owner.knowing(KnownRevisions((*known.revisions, *intended)), request, 1)


def forgetting(owner: KnownOwner) -> KnownOwner:
    """The same by a registry that knows no revision any more, as one that was restored."""
    return replace(owner, known=KnownRevisions())


def by_another(owner: OwnerT) -> OwnerT:
    """The same as a job describes it that its registry does not know."""
    return replace(owner, revision=str(uuid.uuid4()))
