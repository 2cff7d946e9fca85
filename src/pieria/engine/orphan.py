"""A process that ends with the one that started it, also when it hangs. Torch-free.

Knows the two processes and the socket between them. Does not know what they do.
"""

import ctypes
import os
import select
import signal
import socket
import sys
import threading

from pieria.clock import RealTime

GRACE_SECONDS = 5.0
"""How long a process whose other end is gone has to end in order."""

PR_SET_PDEATHSIG = 1
"""Of linux/prctl.h."""


def end_with_parent(sock: socket.socket) -> None:
    """From now on, do not outlive who holds the other end of `sock`.

    On Linux the kernel kills this process when the thread that started it has ended. Everywhere,
    the other end's closing is seen by a thread, whatever else waits or computes here.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    end_with_other_end(sock)


def end_with_other_end(sock: socket.socket) -> None:
    """End this process when the other end is closed, after `GRACE_SECONDS`."""
    # A descriptor of its own, which stays valid when the socket is closed here.
    threading.Thread(target=_watch, args=(os.dup(sock.fileno()),), daemon=True).start()


def _watch(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, 0)  # nothing but a hang-up, which is always told
    poll.poll()
    RealTime().sleep(GRACE_SECONDS)
    os._exit(1)
