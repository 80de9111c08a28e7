"""The error that the command line shows to its user."""


class CommandError(Exception):
    """A command cannot be done; the message tells the person at the terminal why and what to do next."""
