"""What is said of streams that are watched."""

from collections.abc import Iterable

from mcr.text.plurals import counted

_PAT = 0


def unit_of(kind: str) -> str:
    """What is counted as lost of a stream of a kind, as `kind` of its health: a noun."""
    return "RTP packet" if "rtp" in kind else "TS packet"


def lost_packets(lost: int, kind: str) -> str:
    """``1,200 RTP packets``; ``1 TS packet`` of a transport stream without RTP."""
    return counted(lost, unit_of(kind))


def pids_text(pids: Iterable[int]) -> str:
    """``PID 0 (PAT)``, ``PIDs 256, 257``."""
    names = ["0 (PAT)" if pid == _PAT else str(pid) for pid in pids]
    return f"PID{'s' if len(names) > 1 else ''} {', '.join(names)}"
