"""A wrapper: its process becomes the program that `ods.programs.process.start` is asked for.

It has the kernel end the program when the parent dies, and sets user and priority. `subprocess` could call a
function for that in the forked child (`preexec_fn`). But Python that runs there may wait for ever for a lock
that another thread, such as one of Temporal's SDK, held at that moment, and the parent waits for the child.

It uses the standard library alone, and is run without the packages that are installed.
"""

import ctypes
import os
import signal
import sys
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
_NOT_FOUND = 127
"""The exit code of a shell whose command cannot be run."""


def main(parent: str, death_signal: str, niceness: str, user: str, group: str, *command: str) -> None:
    """Become `command`, whose first word is the program.

    Args:
        parent: the id of the process that has started this one.
        death_signal: the number of the signal that the kernel sends when that dies (Linux only).
        niceness: as of `nice`, from 0 to 19, beyond that of the parent.
        user: the id of the user to become; empty for that of the parent.
        group: the id of the user's group.
        command: the program and its arguments.
    """
    if int(niceness):
        lower_priority(os.getpid(), int(niceness))
    if user:
        os.setgroups([])
        os.setgid(int(group))
        os.setuid(int(user))
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores them, which the program would inherit
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    if sys.platform == "linux":
        # After the change of the user, which would undo the request.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != int(parent):
            sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be run: {error.strerror}\n")
        sys.exit(_NOT_FOUND)


def lower_priority(pid: int, niceness: int) -> None:
    """Have a process yield to others, with all its threads.

    Args:
        pid: of the process, which leads a session of its own.
        niceness: as of `nice`, from 0 to 19, beyond that of this process.
    """
    with suppress(OSError):  # it has ended
        os.setpriority(os.PRIO_PGRP, pid, os.getpriority(os.PRIO_PROCESS, 0) + niceness)
    # With autogroups, the kernel divides processor time among sessions: niceness counts within one only.
    with suppress(OSError):
        session = os.open(f"/proc/{pid}/autogroup", os.O_WRONLY)
        os.write(session, b"%d" % niceness)
        os.close(session)


if __name__ == "__main__":
    main(*sys.argv[1:])
