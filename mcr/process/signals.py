"""The signals that mcrd acts on, from its first moment to its last.

They are blocked in every thread, so none ends the process half-way into its start or its end, and one that comes
before mcrd can act on it waits. A thread takes them one by one. Processes that mcrd starts inherit the mask: what a
terminal sends to everybody in front of it is the daemon's business alone.

Import-light: nothing can be held before this module is there.
"""

import signal
import threading
from collections.abc import Callable

HEARD = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGTERM})

_UNHEARD = frozenset({signal.SIGTTOU})
"""Would stop mcrd and its workers when it logs from the background to a terminal with `stty tostop`."""


def hold_signals() -> None:
    """Keep the signals waiting, in this thread and in those that it starts. Call it before there are others.

    Processes that a shell starts in the background ignore SIGINT, and those of nohup SIGHUP. An ignored signal does not
    wait.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD | _UNHEARD)
    for number in HEARD:
        signal.signal(number, signal.SIG_DFL)


def listen(hear: Callable[[signal.Signals], None]) -> None:
    """Pass signals that wait, and those to come, to `hear`: in a thread of its own, for ever."""

    def pass_on() -> None:
        while True:
            hear(signal.Signals(signal.sigwait(HEARD)))

    threading.Thread(target=pass_on, name="mcr-signals", daemon=True).start()
