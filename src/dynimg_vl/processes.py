"""What every process that works for another one does."""

import os
import signal
import threading
from multiprocessing import connection, parent_process


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone.

    A parent that was killed ends nobody: its workers would wait for work for ever. For the start of a worker of
    multiprocessing; elsewhere it does nothing.
    """
    parent = parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_at_once() -> None:
    """End this process with the one that started it, and without a word at Ctrl-C, which reaches the whole group.

    Python would turn that into an exception of the present job, and the worker would begin the next one.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()
