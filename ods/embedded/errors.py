"""The error whose message a command prints."""


class CommandError(Exception):
    """A command failed; its message says why, and what the user can do next."""
