import attrs
import pytest

from mcr.config.effective import effective_views
from mcr.config.settings import VARIABLES, Settings, disagreements, from_environment, unknown_variables
from mcr.errors import UsageError
from mcr.model.log import Level, LogLevels

CHOSEN = Settings("/run/mcr/control.sock", 2, LogLevels())

OFF = {"MCR_ABSORB": "0", "MCR_RAW_SEND": "0"}


def test_nothing_given_leaves_the_defaults() -> None:
    settings = from_environment(CHOSEN, {})
    assert settings == from_environment(CHOSEN, {"MCR_SOCKET_SNDBUF": ""})
    assert attrs.evolve(settings, views=()) == CHOSEN
    assert {view.source for view in settings.views} == {"default"}


def test_variables_are_taken_in_their_units() -> None:
    settings = from_environment(CHOSEN, {"MCR_SOCKET_SNDBUF": "8388608", "MCR_STATS_INTERVAL_MS": "250"})
    assert (settings.send_buffer, settings.stats_interval) == (8_388_608, 0.25)
    given = {view.name: (view.value, view.default) for view in settings.views if view.source == "environment"}
    assert given == {"MCR_SOCKET_SNDBUF": ("8388608", "4194304"), "MCR_STATS_INTERVAL_MS": ("250", "0")}


@pytest.mark.parametrize("name", [variable.name for variable in VARIABLES])
@pytest.mark.parametrize("value", ["x", "-1", "1.5", "99999999999", "8M", "\u0665"])
def test_bad_value_is_told_with_its_variable_and_range(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"Invalid {name}: ") as caught:
        from_environment(CHOSEN, {name: value})
    assert "a whole number from " in caught.value.hints[0] or caught.value.hints[0].startswith("0 or 1 (")


def test_every_variable_has_its_effect() -> None:
    """Each one alone, at another value than the default, makes other settings."""
    plain = attrs.evolve(from_environment(CHOSEN, {}), views=())
    for variable in VARIABLES:
        other = variable.allowed[-1] if variable.allowed[-1] != variable.default else variable.allowed[0]
        changed = from_environment(CHOSEN, {variable.name: str(other)})
        assert attrs.evolve(changed, views=()) != plain, variable.name


def test_variable_that_mcrd_does_not_know_is_told_with_the_nearest() -> None:
    names = ["BUFFERPOOL_SMALL", "NUM_WORKERS", "XYZZY", "SOCKET_SNDBUF", "CONTROL_SOCKET"]
    assert unknown_variables({f"MCR_{name}": "1" for name in names}, ["--control-socket", "--num-workers"]) == [
        "MCR_BUFFERPOOL_SMALL means nothing to mcrd; did you mean MCR_BUFFER_POOL_SMALL?",
        "MCR_NUM_WORKERS means nothing to mcrd; did you mean the option --num-workers?",
        "MCR_XYZZY means nothing to mcrd",
    ]


def test_what_is_in_force_is_told_where_it_is_not_what_was_asked_for() -> None:
    """A ring's slots are a power of two; levels that were changed since say so; the rest is as asked."""
    settings = from_environment(CHOSEN, {"MCR_BUFFER_POOL_SMALL": "3000", "MCR_BUFFER_POOL_STANDARD": "512"})
    views = {view.name: view for view in effective_views(settings, LogLevels().with_global(Level.DEBUG))}
    assert views["MCR_BUFFER_POOL_SMALL"].effective == "4096 (a power of two)"
    assert views["MCR_NUM_RECV_BUFFERS"].effective is views["MCR_MAX_HOLD_US"].effective is None


def test_small_rings_limit_the_batch_and_the_wait() -> None:
    """Half a ring at most is in hand, and none runs full while a worker waits."""
    asked = {"MCR_BUFFER_POOL_SMALL": "60", "MCR_BUFFER_POOL_JUMBO": "8", "MCR_NUM_RECV_BUFFERS": "256"}
    views = {view.name: view for view in effective_views(from_environment(CHOSEN, asked), LogLevels())}
    limits = "32 where MCR_BUFFER_POOL_SMALL counts", "4 where MCR_BUFFER_POOL_JUMBO counts"
    assert views["MCR_NUM_RECV_BUFFERS"].effective == views["MCR_MAX_HOLD_US"].effective == ", ".join(limits)


def test_send_buffer_that_does_not_hold_a_batch_is_told() -> None:
    assert disagreements(from_environment(CHOSEN, {})) == []
    (said,) = disagreements(from_environment(CHOSEN, {"MCR_SOCKET_SNDBUF": "4096"}))
    assert said.startswith(
        "MCR_SOCKET_SNDBUF=4096 has room for 3 datagrams of 1316 bytes, and MCR_NUM_RECV_BUFFERS=32 "
    )


def test_absorbing_that_is_switched_off_is_as_asked_for_and_that_is_not_done_is_told() -> None:
    off = {view.name: view for view in effective_views(from_environment(CHOSEN, OFF), LogLevels())}
    assert off["MCR_ABSORB"].effective is off["MCR_RAW_SEND"].effective is None
    on = {view.name: view for view in effective_views(from_environment(CHOSEN, {}), LogLevels())}
    # This process is no daemon, and absorbs nothing. Whether raw frames may leave depends on the machine: test_raw.py.
    assert on["MCR_ABSORB"].effective == "0: on no input interface now; if there are any, see the log of mcrd for why"


def test_defaults_are_the_guide_s_but_for_one() -> None:
    """Why a small pool holds 2,000 and not 1,000: docs/performance.md."""
    defaults = {variable.name: variable.default for variable in VARIABLES}
    assert defaults == {
        "MCR_BUFFER_POOL_SMALL": 2000,
        "MCR_BUFFER_POOL_STANDARD": 500,
        "MCR_BUFFER_POOL_JUMBO": 200,
        "MCR_NUM_RECV_BUFFERS": 32,
        "MCR_SOCKET_SNDBUF": 4_194_304,
        "MCR_MAX_HOLD_US": 50,
        "MCR_STATS_INTERVAL_MS": 0,
        "MCR_ABSORB": 1,
        "MCR_RAW_SEND": 1,
    }
