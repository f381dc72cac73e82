"""Limits: how much a relay holds at most."""

MAX_RULES = 16_384
"""Rules a relay holds at most (the worker's match table is sized for it). A rule counts for each flow that it takes."""

MAX_SOURCES = 64
"""Sources of one rule, at most."""

MAX_FLOWS = 4_096
"""Flows of one rule, at most: groups times ports, times sources if it names some."""

MAX_OUTPUTS = 65_536
"""Outputs of all rules together, at most."""

MAX_OUTPUTS_PER_RULE = 512
"""Outputs of one rule, at most."""

MAX_INTERFACES = 128
"""Input interfaces, and likewise output interfaces, at most."""

INTERFACE_SLOTS = 2 * MAX_INTERFACES
"""Places for them: while all are in use each can be opened again, beside what workers still read from or send by."""

MAX_NEIGHBOURS = 65_536
"""Hosts that are sent to, at most, and groups whose route leads to a gateway."""

MAX_BATCH = 256
"""Packets that a worker takes from a capture ring at a time, at most."""

DEFAULT_TRAIN = 32
"""Datagrams that leave in one system call at most, unless an output says otherwise."""

MAX_TRAIN = 64
"""Those that an output can ask for."""

CONFIRM_SECONDS = range(1, 7 * 24 * 3600 + 1)
"""How long an apply of configuration files may wait for confirmation."""
