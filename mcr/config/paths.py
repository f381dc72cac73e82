"""The path where mcrd and mcrctl meet. Import-light: every command of mcrctl pays for it."""

import os
from typing import Final

DEFAULT_CONTROL_SOCKET: Final = "/run/mcr/control.sock"
"""The control socket, unless another is chosen."""

CONTROL_SOCKET_VARIABLE: Final = "MCR_CONTROL_SOCKET"
"""The environment variable that chooses another."""

CONFIGURATION: Final = ("/etc/mcr/mcr.toml", "/etc/mcr/rules.d")
"""Where the service's configuration is, if there is any: a file, and a directory of files."""

METRICS_SOCKET: Final = "metrics.sock"
"""Name of the socket that a service serves metrics on, in the directory that systemd has made for it."""

_LONGEST: Final = 107  # bytes of a unix socket's path: sun_path of unix(7) ends with a zero


def describe_length(path: str) -> str:
    """Why a path is too long for a socket."""
    return f"the path of a socket may have {_LONGEST} bytes at most; this one has {len(os.fsencode(path))}"
