"""What the parts of the service find out about a request, for its entry in the audit trail."""

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection


@dataclass
class AuditContext:
    """What is known of a request so far.

    Attributes:
        client: the id of the client, once it has proven who it is.
        instance: the id of the instance that the request is about.
        job: the id of the job that the request has led to.
        title: why the request was refused.
        further: further instances that the request is about, each with the job that it has led to.
        is_dry_run: whether the request changes nothing, whatever its method.
        is_sign_in: whether the request has signed in the client or person, whatever its method.
        is_shed: whether the request was refused, unseen, because there were too many.
    """

    client: str | None = None
    instance: int | None = None
    job: str | None = None
    title: str | None = None
    further: list[tuple[int, str]] = field(default_factory=list)
    is_dry_run: bool = False
    is_sign_in: bool = False
    is_shed: bool = False

    def add(self, instance: int, job: str) -> None:
        """Note a job that the request has led to."""
        if self.job is None:
            self.instance, self.job = instance, job
        else:
            self.further.append((instance, job))


def begin_audit(connection: HTTPConnection) -> None:
    """Give the request a context, before any other part of the service sees it."""
    connection.scope.setdefault("state", {})["audit"] = AuditContext()


def audit_context(connection: HTTPConnection) -> AuditContext:
    """The context of the request."""
    context: AuditContext = connection.scope["state"]["audit"]
    return context


async def _audit_context(connection: HTTPConnection) -> AuditContext:
    return audit_context(connection)


AuditContextDep = Annotated[AuditContext, Depends(_audit_context)]
