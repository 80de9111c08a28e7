"""What can be wrong with a request to the console, beside the problems that the API has as well."""

from collections.abc import Mapping


class SignInNeededError(Exception):
    """The request needs a client that is signed in.

    Args:
        path: the page that was asked for, with its query, without the service's prefix.
        typed: the fields of the form that was sent, which must not be lost; none if nothing was sent.
        tenant: the tenant to whose client the form was shown; empty if that is not known.
        again: whether a client is signed in, but for too long.
    """

    def __init__(self, path: str, typed: Mapping[str, str], tenant: str, *, again: bool = False) -> None:
        super().__init__(path)
        self.path = path
        self.typed = typed
        self.tenant = tenant
        self.again = again
