"""Who has asked for what is being done: the log tells it with each change."""

from contextvars import ContextVar

_asker: ContextVar[str] = ContextVar("asker", default="")


def set_asker(uid: int, pid: int) -> None:
    """What this task does from now on is asked for by a process of a user."""
    _asker.set(f" (uid {uid}, process {pid})")


def asker() -> str:
    """To be put behind what the log tells of a change; empty: mcrd makes it by itself."""
    return _asker.get()
