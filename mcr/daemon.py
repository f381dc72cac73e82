"""The composition root: starts the actors in order, and stops them in reverse."""

import logging
import math
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

import attrs
import trio

from mcr import __version__
from mcr._native import lib
from mcr.actors.config_files import ConfigFiles
from mcr.actors.loop_watch import run_loop_watch
from mcr.actors.mailbox import next_beat
from mcr.actors.network_watch import run_network_watch
from mcr.actors.predecessors import Predecessors
from mcr.actors.querier_watch import run_querier_watch
from mcr.actors.rule_store import run_rule_store
from mcr.actors.stats_aggregator import StatsAggregator, run_stats_aggregator
from mcr.actors.worker_supervisor import WorkerSupervisor, run_worker_supervisor
from mcr.config.file import Configuration, ConfigurationPaths
from mcr.config.settings import Settings, disagreements, is_asked_for, unknown_variables
from mcr.config.table import STATE_DIR
from mcr.control import handover
from mcr.control.handover import HandedOver, HandOver
from mcr.control.listener import control_socket
from mcr.control.methods import Api
from mcr.control.server import ControlServer, run_control_server
from mcr.diagnosis.consultation import Consultation
from mcr.errors import McrError, describe_errno
from mcr.logs.control import LogControl
from mcr.logs.logger import get_logger
from mcr.metrics.service import Metrics
from mcr.model.log import Facility
from mcr.model.saving import Saving
from mcr.net.capture import check_permission
from mcr.net.filter.tap import StreamTap
from mcr.process.descriptor_store import DescriptorStore
from mcr.process.garbage import seek_in_short_steps
from mcr.process.refusal import describe_refusal
from mcr.process.service import ServiceManager, passed_descriptors
from mcr.process.signals import listen
from mcr.relay.kernel_path import open_kernel_rules
from mcr.rules.rule_table import Keep
from mcr.rules.store import RuleFile, StateInUse
from mcr.rules.trial import Trial, after_start, kept_trial, this_moment, utc
from mcr.shm.kept import Kept
from mcr.stats.meter import Meter
from mcr.text.plurals import counted

log = get_logger(Facility.SUPERVISOR)

NO_FILES = ConfigurationPaths()

EMPTY = Configuration()

_Event = signal.Signals | None
"""A signal; or None: another mcrd has taken over."""

_TURN_SECONDS = 0.001
"""How long a thread that works for one client may keep the others waiting, each time."""

_KEEP_SECONDS = 1.0
"""Between two times that the service manager is told what it could not be told before."""

NICE = -10
"""Of mcrd and its workers. When more arrives than can be forwarded, ksoftirqd, which is of nice 0, takes packets in;
beside it, a worker of the same priority has too little of its processor to forward as many as it could."""

DRAIN_SECONDS = 1.5
"""How long workers may take to send what has arrived, once told to stop."""


async def run_daemon(
    settings: Settings,
    paths: ConfigurationPaths = NO_FILES,
    configuration: Configuration = EMPTY,
    *,
    take_over: bool = False,
) -> None:
    """Run until SIGTERM or SIGINT, then drain.

    Args:
        settings: of the command line, the environment and the files.
        paths: where the configuration files are.
        configuration: what they said when the settings were made of them.
        take_over: from the mcrd that serves the control socket.

    Raises:
        McrError: the daemon cannot start; in an ExceptionGroup.
    """
    manager = ServiceManager.from_environment()
    check_permission()
    _prepare_process(settings)
    events, signals = _signals()
    handed_over = _take_over(settings) if take_over else HandedOver(passed_descriptors())
    store = DescriptorStore(manager, handed_over.descriptors)
    with ExitStack() as stack:
        file, unsaved = await trio.to_thread.run_sync(_open_rules, settings)
        if file:
            stack.callback(file.close)
        if take_over:  # the one that ran may have used newer ones
            configuration = await trio.to_thread.run_sync(_read_again, paths, configuration)
        configuration, trial = await trio.to_thread.run_sync(_resume_trial, file, configuration)
        # Before anything ends that runs: if it can't be made, the workers go on, at each try of a service manager.
        closing = stack.enter_context(ExitStack())
        listener = closing.enter_context(control_socket(settings.control_socket))
        metrics = stack.enter_context(Metrics.open(settings.metrics))
        predecessors, kept = await _go_on(settings, store, stack)
        kernel = stack.enter_context(open_kernel_rules(settings, kept))
        tap = stack.enter_context(StreamTap())
        async with trio.open_nursery() as nursery:
            stats = await nursery.start(run_stats_aggregator, kept, settings.stats_interval, kernel.counters, tap)
            network = await nursery.start(run_network_watch)
            workers = await nursery.start(
                partial(run_worker_supervisor, kept, stats, settings, network, predecessors, kernel=kernel, tap=tap)
            )
            rules = await nursery.start(
                run_rule_store, workers, network, file, configuration.rules, handed_over.rules_beside(file)
            )
            await workers.take_over()
            nursery.start_soon(_keep_told, store)
            files = ConfigFiles(paths, configuration, rules, trial)
            nursery.start_soon(files.keep)
            log_control = LogControl(settings.levels, workers)
            watch = await nursery.start(run_querier_watch)
            loops = await nursery.start(run_loop_watch, stats, workers, network, Meter(kept.segments, kernel.counters))
            diagnosis = Consultation(
                rules, workers, stats, settings, watch, loops, files, lambda: file.saving if file else unsaved
            )
            api = Api(
                rules=rules,
                workers=workers,
                stats=stats,
                logging=log_control,
                diagnosis=diagnosis,
                settings=settings,
                files=files,
            )
            leave = HandOver(store, rules, file, partial(events.send_nowait, None))
            control = await nursery.start(run_control_server, listener, closing, api, leave)
            await metrics.serve(nursery, rules, workers, stats)
            status = f"{counted(settings.num_workers, 'worker')}, control socket {settings.control_socket}"
            log.notice("mcrd %s is ready: %s", __version__, status)
            manager.ready(status)
            nursery.start_soon(_show_life, manager, (rules.check, workers.describe))
            reload = partial(nursery.start_soon, _reload, manager, log_control, settings, files, status)
            signum = await _wait_for_the_end(signals, reload)
            manager.stopping()
            diagnosis.stop()
            await metrics.stop()
            if store.outlives_mcrd or not signum:
                await _leave(control, workers, stats, file, store)
            await _drain(control, workers)
            nursery.cancel_scope.cancel(reason="the daemon stops")


def _take_over(settings: Settings) -> HandedOver:
    """Have the mcrd that runs end, unless this one could not go on then."""
    Metrics.check(settings.metrics)
    return handover.take_over(settings.control_socket)


async def _go_on(settings: Settings, store: DescriptorStore, stack: ExitStack) -> tuple[Predecessors, Kept]:
    """What the mcrd before this one has left, if there was one.

    If it can't be used, nothing of it goes on: its workers would forward what these forward.
    """
    predecessors = stack.enter_context(Predecessors(store))
    kept = stack.enter_context(Kept.open(store, settings.num_workers, settings.max_hold_us, settings.receive_buffers))
    if kept.unfit:
        log.warning("what the last mcrd has left cannot be used: %s. Counters start at zero", kept.unfit)
    if not kept.inherited:
        await predecessors.end()
    return predecessors, kept


async def _leave(
    control: ControlServer,
    workers: WorkerSupervisor,
    stats: StatsAggregator,
    file: RuleFile | None,
    store: DescriptorStore,
) -> NoReturn:
    """End, and leave everything else as it is: the workers go on until the next mcrd has others take their places.

    If there is none, what keeps their channels open closes them, and they end by themselves. One that hangs would not.
    """
    await control.stop()
    await workers.end_hung()
    await stats.save()
    if file:
        file.close()
    store.catch_up()
    log.notice("the workers go on, for the next mcrd; without one they send what has arrived, and end")
    logging.shutdown()
    os._exit(0)


async def _wait_for_the_end(signals: trio.MemoryReceiveChannel[_Event], reload: Callable[[], None]) -> _Event:
    """What ends mcrd; until then SIGHUP has it reload."""
    while True:
        signum = await signals.receive()
        if signum != signal.SIGHUP:
            log.notice("%s: stopping", signum.name if signum else "another mcrd takes over")
            return signum
        reload()


async def _reload(
    manager: ServiceManager, log_control: LogControl, settings: Settings, files: ConfigFiles, status: str
) -> None:
    manager.reloading()
    await log_control.use(settings.levels)
    log.notice("SIGHUP: log levels are reset to those of the start")
    if files.are_there():
        await files.reload()
    manager.ready(status)


def _open_rules(settings: Settings) -> tuple[RuleFile | None, Saving]:
    """The file of the rules, and how it stands where there is none.

    If the default directory cannot be used, mcrd runs without it, unless somebody asked for it. One that another mcrd
    uses is an error in any case: it would be chance which of the two has the rules after a reboot.
    """
    if settings.no_state:
        return None, Saving()
    asked_for = is_asked_for(STATE_DIR, settings)
    try:
        return RuleFile.open(Path(settings.state_dir)), Saving()
    except StateInUse:
        with control_socket(settings.control_socket):  # its error says more, if that is in use as well
            raise
    except McrError as error:
        if asked_for:
            raise
        log.warning("rules are not loaded, and are forgotten when mcrd ends: %s", error.message)
        return None, Saving(trouble=error.message)


def _read_again(paths: ConfigurationPaths, before: Configuration) -> Configuration:
    """What the files say now; if they have a fault, what they said before."""
    now = paths.read(before)
    return before if now.faults else attrs.evolve(now, settings=before.settings)


def _resume_trial(file: RuleFile | None, configuration: Configuration) -> tuple[Configuration, Trial | None]:
    """What is in force of the files, and the trial that it is on, or was on."""
    before, now = kept_trial(file.kept) if file else None, this_moment()
    trial = after_start(before, tuple(each.rule for each in configuration.rules), now)
    if file and trial != before:
        try:
            file.write([Keep(trial.text() if trial else "")])
        except McrError as error:
            log.warning("%s", error.message)
    if trial is None:
        return configuration, None
    if trial.waits:
        when = trial.deadline(now)
        log.notice("what the configuration files say is taken back at %s unless it is confirmed: mcrctl confirm", when)
        return configuration, trial
    log.warning(
        "nobody confirmed what the configuration files say: mcrd goes by what they said before %s; mcrctl config diff",
        utc(trial.begun.day),
    )
    return attrs.evolve(configuration, rules=trial.rules_before, blocks={}), trial


def _signals() -> tuple[trio.MemorySendChannel[_Event], trio.MemoryReceiveChannel[_Event]]:
    """Signals that have waited since the start, and those to come. Later ones, when nobody receives, are ignored."""
    send, receive = trio.open_memory_channel[_Event](math.inf)
    token = trio.lowlevel.current_trio_token()

    def hear(number: signal.Signals) -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(send.send_nowait, number)

    listen(hear)
    return send, receive


async def _keep_told(store: DescriptorStore) -> None:
    """Have the service manager, if it keeps anything, keep what it could not be asked to, as soon as it can."""
    knew = True
    while store.outlives_mcrd:
        knows = store.catch_up()
        if knew and not knows:
            log.warning("the service manager does not keep all that it is to: a restart would lose packets now")
        if knows and not knew:
            log.notice("the service manager keeps all that it is to again")
        knew = knows
        await next_beat(_KEEP_SECONDS)


async def _show_life(manager: ServiceManager, questions: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """Report to the service manager, if it wants that, that the daemon lives: the actors that it needs answer."""
    if not manager.watchdog_seconds:
        return
    while True:
        for ask in questions:
            await ask()
        manager.alive()
        await trio.sleep(manager.watchdog_seconds / 2)


async def _drain(control: ControlServer, workers: WorkerSupervisor) -> None:
    await control.stop()
    with trio.move_on_after(DRAIN_SECONDS) as scope:
        await workers.stop()
    if scope.cancelled_caught:
        log.warning("workers had not sent everything after %.1f s, and were stopped", DRAIN_SECONDS)


def _prepare_process(settings: Settings) -> None:
    """Set up what concerns the whole process, and warn of what it will have to do without."""
    sys.setswitchinterval(_TURN_SECONDS)
    seek_in_short_steps()
    _warn_without_io_uring()
    for message in [*unknown_variables(os.environ), *disagreements(settings)]:
        log.warning("%s", message)
    _raise_limits()
    _raise_priority()


def _warn_without_io_uring() -> None:
    error = -lib.mcr_uring_probe()
    if error:
        log.warning("io_uring is not available (%s): workers run on poll instead", describe_errno(error))


def _raise_limits() -> None:
    """Raise this process's limits of open files and locked memory as far as the kernel allows.

    Group memberships take a descriptor for every 20 groups. Kernels before 5.12 count io_uring and eBPF as locked
    memory, of which most systems allow 64 KiB: root may have more.
    """
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except ValueError:  # not permitted
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    except OSError as error:
        log.warning("limits of open files and locked memory stay as they are: %s", describe_refusal(error))


def _raise_priority() -> None:
    """Take nice -10, if that is permitted and no other priority was chosen. Workers inherit it."""
    with suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, 0) == 0:
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
