import re
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import attrs
import pytest

from mcr.cli.supervisor import configuration_paths, environment
from mcr.config.effective import effective_views
from mcr.config.file import ConfigurationPaths
from mcr.config.kinds import FilePath, Listening, LogLevel, Switch, Whole, Word
from mcr.config.paths import CONFIGURATION
from mcr.config.settings import Settings, disagreements, is_asked_for, settings_from, unknown_variables
from mcr.config.table import LOG_LEVEL, NUM_WORKERS, RAW_SEND, TABLE, VARIABLES, Setting, Source, choose
from mcr.errors import UsageError
from mcr.model.endpoint import TcpEndpoint, UnixEndpoint
from mcr.model.log import Level, LogLevels
from mcr.worker.policy import usable_cores
from transcript import table_rows

TROUBLESHOOTING = Path(__file__).parents[2] / "docs" / "troubleshooting.md"


def from_environment(environment: dict[str, str]) -> Settings:
    return settings_from({Source.ENVIRONMENT: environment})


def another(setting: Setting[Any]) -> str:
    """A value that is allowed, and not the default."""
    match setting.kind:
        case Whole(values):
            return str(values[-1] if values[-1] != setting.default else values[0])
        case Switch():
            return "0" if setting.default else "1"
        case Word(words):
            return next(word for word in words if word != setting.default)
        case LogLevel():
            return "trace"
        case FilePath():
            return "/tmp/other.sock"
        case Listening():
            return "[::1]:9464"
    raise AssertionError(setting.kind)


OFF = {"MCR_ABSORB": "0", "MCR_RAW_SEND": "0"}


def test_nothing_given_leaves_the_defaults() -> None:
    settings = settings_from({})
    assert settings == from_environment({"MCR_SOCKET_SNDBUF": ""})
    assert attrs.evolve(settings, views=()) == Settings("/run/mcr/control.sock", len(usable_cores()), LogLevels())
    assert {view.source for view in settings.views} == {"default"}


def test_variables_are_taken_in_their_units() -> None:
    settings = from_environment({"MCR_SOCKET_SNDBUF": "8388608", "MCR_STATS_INTERVAL_MS": "250"})
    assert (settings.send_buffer, settings.stats_interval) == (8_388_608, 0.25)
    given = {view.name: (view.value, view.default) for view in settings.views if view.source == "environment"}
    assert given == {"MCR_SOCKET_SNDBUF": ("8388608", "4194304"), "MCR_STATS_INTERVAL_MS": ("250", "0")}


@pytest.mark.parametrize("name", [setting.variable for setting in VARIABLES])
@pytest.mark.parametrize("value", ["x", "-1", "1.5", "99999999999", "8M", "\u0665"])
def test_bad_value_is_told_with_its_variable_and_range(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"Invalid {name}: ") as caught:
        from_environment({name: value})
    assert re.match(r"a whole number from |0 or 1 \(|auto or off \(", caught.value.hints[0])


def test_every_setting_has_its_effect_wherever_it_stands() -> None:
    """Each one alone, at another value than the default, makes other settings."""
    plain = attrs.evolve(settings_from({}), views=())
    for setting in TABLE:
        for source in (Source.COMMAND_LINE, Source.ENVIRONMENT, Source.FILE):
            if called := setting.called_by(source):
                changed = settings_from({source: {called: another(setting)}})
                assert attrs.evolve(changed, views=()) != plain, called
                (view,) = (view for view in changed.views if view.source != "default")
                assert (view.name, view.value, view.source) == (setting.shown_name, another(setting), source.value)


def test_variable_that_mcrd_does_not_know_is_told_with_the_nearest() -> None:
    names = ["BUFFERPOOL_SMALL", "NUM_WORKERS", "XYZZY", "SOCKET_SNDBUF", "CONTROL_SOCKET"]
    assert unknown_variables({f"MCR_{name}": "1" for name in names}) == [
        "MCR_BUFFERPOOL_SMALL means nothing to mcrd; did you mean MCR_BUFFER_POOL_SMALL?",
        "MCR_NUM_WORKERS means nothing to mcrd; did you mean the option --num-workers?",
        "MCR_XYZZY means nothing to mcrd",
    ]


def test_what_is_in_force_is_told_where_it_is_not_what_was_asked_for() -> None:
    """A ring's slots are a power of two; levels that were changed since say so; the rest is as asked."""
    settings = from_environment({"MCR_BUFFER_POOL_SMALL": "3000", "MCR_BUFFER_POOL_STANDARD": "512"})
    views = {view.name: view for view in effective_views(settings, LogLevels().with_global(Level.DEBUG))}
    assert views["MCR_BUFFER_POOL_SMALL"].effective == "4096 (a power of two)"
    assert views["MCR_NUM_RECV_BUFFERS"].effective is views["MCR_MAX_HOLD_US"].effective is None


def test_small_rings_limit_the_batch_and_the_wait() -> None:
    """Half a ring at most is in hand, and none runs full while a worker waits."""
    asked = {"MCR_BUFFER_POOL_SMALL": "60", "MCR_BUFFER_POOL_JUMBO": "8", "MCR_NUM_RECV_BUFFERS": "256"}
    views = {view.name: view for view in effective_views(from_environment(asked), LogLevels())}
    limits = "32 where MCR_BUFFER_POOL_SMALL counts", "4 where MCR_BUFFER_POOL_JUMBO counts"
    assert views["MCR_NUM_RECV_BUFFERS"].effective == views["MCR_MAX_HOLD_US"].effective == ", ".join(limits)


def test_send_buffer_that_does_not_hold_a_batch_is_told() -> None:
    assert disagreements(from_environment({})) == []
    (said,) = disagreements(from_environment({"MCR_SOCKET_SNDBUF": "4096"}))
    assert said.startswith(
        "MCR_SOCKET_SNDBUF=4096 has room for 3 datagrams of 1316 bytes, and MCR_NUM_RECV_BUFFERS=32 "
    )


def test_suppression_that_is_switched_off_is_as_asked_for_and_that_is_not_done_is_told() -> None:
    off = {view.name: view for view in effective_views(from_environment(OFF), LogLevels())}
    assert off["MCR_ABSORB"].effective is off["MCR_RAW_SEND"].effective is None
    on = {view.name: view for view in effective_views(from_environment({}), LogLevels())}
    # This process is no daemon, and suppresses nothing. Raw frames depend on the machine: test_raw_frames.py.
    assert on["MCR_ABSORB"].effective == "0: on no input interface now; if there are any, see the log of mcrd for why"


def test_defaults_are_the_guide_s_but_for_one() -> None:
    """Why a small pool holds 2,000 and not 1,000: docs/performance.md."""
    defaults = {setting.variable: setting.default for setting in VARIABLES}
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
        "MCR_KERNEL_PATH": "auto",
    }


# The table


def test_the_first_source_that_has_a_value_counts() -> None:
    """Command line, environment, file, default."""
    names = {source: LOG_LEVEL.called_by(source) for source in (Source.COMMAND_LINE, Source.FILE)}
    assert names == {Source.COMMAND_LINE: "--log-level", Source.FILE: "log_level"}
    given = {
        Source.FILE: {"control_socket": "/file", "num_workers": "3", "max_hold_us": "7"},
        Source.ENVIRONMENT: {"MCR_CONTROL_SOCKET": "/environment", "MCR_MAX_HOLD_US": "", "MCR_NUM_WORKERS": "4"},
        Source.COMMAND_LINE: {"--control-socket": "/command-line"},
    }
    settings = settings_from(given)
    assert (settings.control_socket, settings.num_workers, settings.max_hold_us) == ("/command-line", 3, 7)
    del given[Source.COMMAND_LINE]
    assert settings_from(given).control_socket == "/environment"
    del given[Source.ENVIRONMENT]
    assert settings_from(given).control_socket == "/file"
    assert settings_from({}).control_socket == "/run/mcr/control.sock"


def test_a_value_that_does_not_count_is_not_judged() -> None:
    given = {Source.FILE: {"raw_send": "maybe"}, Source.ENVIRONMENT: {"MCR_RAW_SEND": "0"}}
    assert choose(RAW_SEND, given).value is False
    with pytest.raises(UsageError, match="Invalid raw_send: 'maybe'"):
        choose(RAW_SEND, {Source.FILE: given[Source.FILE]})


def test_names_of_settings_differ_and_follow_from_each_other() -> None:
    """A file's name for a setting is its variable's without MCR_, in lower case, or its option's."""
    assert len({setting.name for setting in TABLE}) == len(TABLE)
    for setting in TABLE:
        assert setting.option or setting.variable
        assert setting.option in ("", f"--{setting.name.replace('_', '-')}")
        assert setting.variable in ("", f"MCR_{setting.name.upper()}")


def test_defaults_are_allowed() -> None:
    for setting in TABLE:
        if setting is not NUM_WORKERS:
            assert setting.kind.parse(setting.default_text) == setting.default


def test_a_setting_is_asked_for_even_at_its_default() -> None:
    assert is_asked_for(RAW_SEND, from_environment({"MCR_RAW_SEND": "1"}))
    assert not is_asked_for(RAW_SEND, settings_from({}))


def test_the_manual_names_every_setting_with_its_default() -> None:
    rows = [tuple(row[:2]) for row in table_rows(TROUBLESHOOTING.read_text(), "Settings")]
    assert rows == [
        (", ".join(f"`{name}`" for name in (setting.option, setting.variable) if name), setting.default_text)
        for setting in TABLE
    ]


def test_the_services_files_are_read_by_the_service_alone() -> None:
    there = ConfigurationPaths(CONFIGURATION, must_exist=False)
    assert configuration_paths((), {}) == there
    assert configuration_paths((), {Source.ENVIRONMENT: {"MCR_CONTROL_SOCKET": "/run/mcr/control.sock"}}) == there
    assert configuration_paths((), {Source.COMMAND_LINE: {"--control-socket": "/tmp/mcr.sock"}}).paths == ()
    mine = str(Path.cwd() / "mine")  # messages name it to somebody in another directory
    assert configuration_paths(("mine", "/etc/x", ""), {}) == ConfigurationPaths((mine, "/etc/x", ""))


def test_without_a_working_directory_a_file_is_known_by_its_whole_path_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert configuration_paths(("/etc/x",), {}) == ConfigurationPaths(("/etc/x",))
    with pytest.raises(UsageError, match="Cannot read mine: the working directory is gone"):
        configuration_paths(("mine",), {})


def test_systemds_state_directory_counts_after_that_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/mcr:/var/lib/other")
    monkeypatch.delenv("MCR_STATE_DIR", raising=False)
    assert environment({})["MCR_STATE_DIR"] == "/var/lib/mcr"
    assert "MCR_STATE_DIR" not in environment({"state_dir": "/srv"})
    monkeypatch.setenv("MCR_STATE_DIR", "/mine")
    assert environment({"state_dir": "/srv"})["MCR_STATE_DIR"] == "/mine"


def test_a_service_serves_metrics_in_its_runtime_directory_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MCR_METRICS", raising=False)
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    assert from_environment(dict(environment({}))).metrics is None
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/mcr")
    assert from_environment(dict(environment({}))).metrics == UnixEndpoint("/run/mcr/metrics.sock")
    assert "MCR_METRICS" not in environment({"metrics": "none"})
    monkeypatch.setenv("MCR_METRICS", "127.0.0.1:9464")
    assert from_environment(dict(environment({}))).metrics == TcpEndpoint(IPv4Address("127.0.0.1"), 9464)


@pytest.mark.parametrize(
    "text", ["127.0.0.1:9464", "0.0.0.0:80", "[::1]:65535", "unix:/run/x y.sock", "unix:x", "none"]
)
def test_where_metrics_are_served_is_shown_as_it_is_written(text: str) -> None:
    (view,) = (view for view in from_environment({"MCR_METRICS": text}).views if view.name == "--metrics")
    assert view.value == text


@pytest.mark.parametrize(
    "text",
    [
        *("9464", ":9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:\u0669", " none"),
        *("localhost:9464", "::1:9464", "[127.0.0.1]:9464", "[::1]", "unix:", "http://127.0.0.1:9464"),
    ],
)
def test_where_metrics_cannot_be_served_is_told_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match="Invalid MCR_METRICS: ") as caught:
        from_environment({"MCR_METRICS": text})
    allowed = "ADDR:PORT, such as 127.0.0.1:9464 or [::1]:9464, or unix:PATH, or none"
    assert caught.value.hints == (f"{allowed}; names are not looked up",)
