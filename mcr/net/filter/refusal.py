"""Why the kernel does not load an eBPF program, in words, and what would help."""

import errno
from pathlib import Path
from typing import Final

from mcr.errors import describe_errno, errno_of
from mcr.logs.logger import get_logger
from mcr.model.log import Facility

log = get_logger(Facility.NETWORK)

JIT_OFF: Final = "the JIT compiler of eBPF is off (net.core.bpf_jit_enable=0)"
JIT_REMEDY: Final = "sudo sysctl -w net.core.bpf_jit_enable=1 (to keep it: /etc/sysctl.d/), then restart mcrd"

_JIT = Path("/proc/sys/net/core/bpf_jit_enable")
_ENOTSUPP = 524  # of the kernel alone: C libraries do not know it
_LACKING = (errno.EINVAL, _ENOTSUPP)


def is_lacking(error: OSError) -> bool:
    """Whether this kernel lacks what a program needs: nothing is short, and nothing forbidden."""
    return error.errno in _LACKING


def why_refused(error: OSError) -> str:
    """What keeps a program from being loaded: the JIT compiler if that is off, or the error as it is."""
    return JIT_OFF if is_lacking(error) and _is_jit_off() else describe_errno(errno_of(error))


def tell_refusal(lost: str, error: OSError) -> None:
    """Log what is lost without a program; and what would help, if it is the verifier or the JIT compiler.

    Args:
        lost: has a place for the error.
        error: from loading it. EACCES is the verifier's, and a security module's; without CAP_BPF it is EPERM, and a
            kernel that lacks what the program needs answers EINVAL.
    """
    text = lost.format(why := why_refused(error))
    if error.errno == errno.EACCES:
        log.warning(
            "%s. Before Linux 6.12 the kernel takes the programs of a mcrd with CAP_PERFMON: installation.md", text
        )
    elif why == JIT_OFF:
        log.warning("%s: %s", text, JIT_REMEDY)
    else:
        log.info("%s", text)


def _is_jit_off() -> bool:
    """Whether that is seen: the file is not there in another network namespace than the machine's first one."""
    try:
        return _JIT.read_text().strip() == "0"
    except OSError:
        return False
