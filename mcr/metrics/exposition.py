"""The two text formats of metrics: OpenMetrics 1.0, and Prometheus text 0.0.4. Their samples are the same."""

import enum
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

import attrs

END: Final = "# EOF\n"
"""Ends OpenMetrics: without it a reader knows that something is missing."""

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_VERSIONS = {"", "0.0.1", "1.0.0"}
_OPEN_METRICS = "application/openmetrics-text"
_PLAIN = {"text/plain", "text/*", "*/*"}


class Format(enum.Enum):
    """A format, by its media type."""

    OPEN_METRICS = f"{_OPEN_METRICS}; version=1.0.0; charset=utf-8"
    PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

    @classmethod
    @lru_cache(16)
    def chosen(cls, accept: str) -> "Format":
        """The one that a client likes better, by its header `Accept` (RFC 9110, 12.5.1)."""
        open_metrics = plain = 0.0
        for each in accept.split(","):
            kind, *parameters = (part.strip().lower() for part in each.split(";"))
            named = dict(part.partition("=")[::2] for part in parameters)
            if kind == _OPEN_METRICS and named.get("version", "").strip('"') in _VERSIONS:
                open_metrics = max(open_metrics, _quality(named))
            elif kind in _PLAIN:
                plain = max(plain, _quality(named))
        return cls.OPEN_METRICS if open_metrics > 0 and open_metrics >= plain else cls.PROMETHEUS


def _quality(parameters: Mapping[str, str]) -> float:
    try:
        return float(parameters.get("q", "1"))
    except ValueError:
        return 0.0


class Kind(enum.Enum):
    """A type of metrics: its name in each format, and what ends the names of its samples."""

    COUNTER = "counter", "counter", "_total"
    GAUGE = "gauge", "gauge", ""
    INFO = "info", "gauge", "_info"

    def __init__(self, open_metrics: str, prometheus: str, suffix: str) -> None:
        self.open_metrics = open_metrics
        self.prometheus = prometheus
        self.suffix = suffix


@attrs.frozen(cache_hash=True)
class Family:
    """Metrics of one name. `unit`: the end of the name, if it is a unit."""

    name: str
    kind: Kind
    meaning: str
    unit: str = ""

    @property
    def sample(self) -> str:
        """Name of its samples."""
        return self.name + self.kind.suffix

    def head(self, chosen: Format) -> str:
        """The lines before its samples."""
        if chosen is Format.PROMETHEUS:
            return f"# HELP {self.sample} {self.meaning}\n# TYPE {self.sample} {self.kind.prometheus}\n"
        unit = f"# UNIT {self.name} {self.unit}\n" if self.unit else ""
        return f"# TYPE {self.name} {self.kind.open_metrics}\n{unit}# HELP {self.name} {self.meaning}\n"

    def line(self, labels: str, value: object) -> str:
        """One sample."""
        return f"{self.sample}{{{labels}}} {value}\n" if labels else f"{self.sample} {value}\n"


def label_text(**labels: object) -> str:
    """Labels, as they stand in a sample."""
    return ",".join(f'{name}="{str(value).translate(_ESCAPES)}"' for name, value in labels.items())


kept_labels = lru_cache(1024, typed=True)(label_text)
"""The same, for samples that each scrape has: text is made once."""


@lru_cache(256)
def _head(family: Family, chosen: Format) -> bytes:
    return family.head(chosen).encode()


def page(sections: Iterable[tuple[Family, Iterable[bytes]]], chosen: Format) -> list[bytes]:
    """Families with the text of their samples, in pieces. Families without samples are left out."""
    pieces = []
    for family, samples in sections:
        if text := [each for each in samples if each]:
            pieces += [_head(family, chosen), *text]
    return [*pieces, END.encode()] if chosen is Format.OPEN_METRICS else pieces
