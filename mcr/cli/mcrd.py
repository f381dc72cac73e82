"""The `mcrd` program, as bin/mcrd (mcrd.c) starts it.

Worker processes import this module too (multiprocessing runs the main module again), so it imports nothing of MCR.
What is imported stays until the end, so no garbage is looked for in it, also at the end: that was a quarter of the
processor's time that a start and an end take.
"""

import gc
import sys


def main() -> None:
    """Run `mcrd`."""
    from mcr.process import signals, streams  # noqa: PLC0415 - see the module's docstring

    # As bin/mcrd has done already, if it was that which was started.
    streams.open_standard_descriptors()
    signals.hold_signals()
    streams.report_errors()
    gc.disable()
    from mcr.cli import failure, supervisor  # noqa: PLC0415

    gc.freeze()
    gc.enable()
    try:
        with open("/proc/self/comm", "w") as name:  # noqa: PTH123 - what ps and pgrep find it by
            name.write("mcrd")
    except OSError:
        pass
    status = failure.run(supervisor.mcrd, "mcrd")
    gc.freeze()
    sys.exit(status)


if __name__ == "__main__":
    main()
