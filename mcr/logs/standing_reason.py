"""A reason why something that is tried again and again does not work: news only when it is another than before."""

import attrs


@attrs.define
class StandingReason:
    """The one that was told last."""

    _told: str = attrs.field(default="", init=False)

    def is_news(self, reason: str) -> bool:
        """Whether to tell it. Empty: it works, and the next reason is news whatever it is."""
        news = bool(reason) and reason != self._told
        self._told = reason
        return news
