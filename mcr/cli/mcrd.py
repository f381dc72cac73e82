"""The `mcrd` program.

Worker processes import this module too (multiprocessing runs the main script again), so it imports nothing itself.
"""

import sys


def main() -> None:
    """Run `mcrd`."""
    from mcr.cli import failure, supervisor  # noqa: PLC0415 - see the module's docstring

    sys.exit(failure.run(supervisor.mcrd, "mcrd"))
