"""How many examples a property is tried with that needs more than others, or fewer."""

from hypothesis import settings


def examples(times: float) -> settings:
    """So many times those of any other: `make check` tries fewer than `make test`."""
    assert settings.default
    return settings(max_examples=max(1, round(times * settings.default.max_examples)))
