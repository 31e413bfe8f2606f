"""`python parent_death_signal.py PARENT COMMAND …`: become the command; the kernel ends it when the parent ends.

It replaces itself, so there is no extra process. Only the standard library is imported, and of that little:
this runs at every start. Only Linux has such a signal; elsewhere the command runs without it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # the kernel signals the process when the thread that forked it ends


def die_with_parent(parent: int, number: int = signal.SIGTERM) -> None:
    """Ask the kernel to signal this process when its parent ends; ends at once where the parent is gone already."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
