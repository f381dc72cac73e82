"""The first moments of `mcrctl`: Ctrl-C ends it silently, also while its modules are still being imported.

So it imports nothing of MCR before that is so. What is imported stays until the end, so no garbage is looked for in it:
that is a seventh of the time that a command takes.
"""

import gc
import signal
import sys

_INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended


def main() -> None:
    """Entry point of `mcrctl`."""
    hears = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # otherwise its parent wants it ignored
    if hears:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()
    from mcr.cli import requests  # noqa: PLC0415 - takes a while

    command = requests.chosen(sys.argv[1:])
    gc.freeze()
    gc.enable()
    try:
        if hears:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        requests.main(command)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
