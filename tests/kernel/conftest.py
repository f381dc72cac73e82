from fake_daemon import daemon, run
from filters import wire
from topology import lab

__all__ = ["daemon", "lab", "run", "wire"]
