"""The path where mcrd and mcrctl meet. Import-light: every command of mcrctl pays for it."""

from typing import Final

DEFAULT_CONTROL_SOCKET: Final = "/run/mcr/control.sock"
"""The control socket, unless another is chosen."""

CONTROL_SOCKET_VARIABLE: Final = "MCR_CONTROL_SOCKET"
"""The environment variable that chooses another."""

CONFIGURATION: Final = ("/etc/mcr/mcr.toml", "/etc/mcr/rules.d")
"""Where the service's configuration is, if there is any: a file, and a directory of files."""

METRICS_SOCKET: Final = "metrics.sock"
"""Name of the socket that a service serves metrics on, in the directory that systemd has made for it."""
