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
    from mcr.cli import mcrctl  # noqa: PLC0415 - takes a while

    gc.freeze()
    gc.enable()
    try:
        if hears:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        mcrctl.main()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
