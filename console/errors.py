"""What can be wrong with a request to the console, beside the problems that the API has as well."""

from collections.abc import Mapping


class SignInNeededError(Exception):
    """The request needs a client that is signed in.

    Args:
        path: the page that was asked for, with its query, without the service's prefix.
        typed: the fields of the form that was sent, which must not be lost; none if nothing was sent.
    """

    def __init__(self, path: str, typed: Mapping[str, str]) -> None:
        super().__init__(path)
        self.path = path
        self.typed = typed
