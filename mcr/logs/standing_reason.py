"""The reason why something that is tried again and again does not work. It is logged only when it changes."""

import attrs


@attrs.define
class StandingReason:
    """The reason that was logged last."""

    _told: str = attrs.field(default="", init=False)

    def is_news(self, reason: str) -> bool:
        """Whether to log it. Empty: it works, and the next reason is logged whatever it is."""
        news = bool(reason) and reason != self._told
        self._told = reason
        return news
