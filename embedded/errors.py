"""The error whose message a command prints."""


class CommandError(Exception):
    """A command failed; its message tells the user of the command why, and what to do next."""
