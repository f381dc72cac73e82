from fake_daemon import daemon, run
from topology import lab

__all__ = ["daemon", "lab", "run"]
