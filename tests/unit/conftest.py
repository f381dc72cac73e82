from fake_daemon import daemon, run

__all__ = ["daemon", "run"]
