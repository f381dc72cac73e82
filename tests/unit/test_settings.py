import pytest

from mcr.errors import UsageError
from mcr.model import LogLevels
from mcr.settings import Settings, from_environment

CHOSEN = Settings("/run/mcr/control.sock", 2, LogLevels())


def test_nothing_given_leaves_the_defaults() -> None:
    assert from_environment(CHOSEN, {}) == from_environment(CHOSEN, {"MCR_SOCKET_SNDBUF": ""}) == CHOSEN


def test_variables_are_taken_in_their_units() -> None:
    settings = from_environment(CHOSEN, {"MCR_SOCKET_SNDBUF": "8388608", "MCR_STATS_INTERVAL_MS": "250"})
    assert (settings.send_buffer, settings.stats_interval) == (8_388_608, 0.25)


@pytest.mark.parametrize("name", ["MCR_SOCKET_SNDBUF", "MCR_STATS_INTERVAL_MS"])
@pytest.mark.parametrize("value", ["x", "-1", "1.5", "99999999999", "8M", "\u0665"])
def test_bad_value_is_told_with_its_variable_and_range(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"Invalid {name}: ") as caught:
        from_environment(CHOSEN, {name: value})
    assert "a whole number from " in caught.value.hints[0]
