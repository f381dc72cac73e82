"""Settings, as `mcrctl settings` shows them."""

import attrs


@attrs.frozen
class SettingView:
    """A setting of the daemon as `mcrctl settings` shows it.

    Attributes:
        name: of the option or environment variable.
        value: what was asked for, or the default.
        source: ``command line``, ``environment``, ``file`` or ``default``.
        effective: what is in force, where that is not `value`, and why.
    """

    name: str
    value: str
    default: str
    source: str
    meaning: str
    effective: str | None = None
