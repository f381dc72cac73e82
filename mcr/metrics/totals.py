"""The page of totals, input interfaces and workers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

import mcr
from mcr.metrics.exposition import Family, Format, Kind, kept_labels, page
from mcr.model.rule import RuleState
from mcr.model.stats import InterfaceStats, ParseErrors, Stats, WorkerStats, error_counts
from mcr.model.worker import WorkerState, WorkerView

BUILD = Family("mcr_build", Kind.INFO, "The version of MCR.")
START = Family(
    "process_start_time_seconds", Kind.GAUGE, "When this mcrd started, since 1970. Counters may be older.", "seconds"
)
RULES = Family("mcr_rules", Kind.GAUGE, "Rules by state; only active ones forward all that they should.")
INGRESS = Family("mcr_ingress_packets", Kind.COUNTER, "UDP datagrams that arrived on an input interface, by result.")
PARSE_ERRORS = Family("mcr_ingress_parse_errors", Kind.COUNTER, "The datagrams of result parse_err, by cause.")
KERNEL_DROPS = Family("mcr_ingress_kernel_drops", Kind.COUNTER, "Frames that arrived when the capture ring was full.")
OWED = Family("mcr_egress_submitted", Kind.COUNTER, "Datagrams owed to outputs: one for each of a matched one.")
EGRESS = Family("mcr_egress_packets", Kind.COUNTER, "Datagrams owed to outputs, by result; errors were not sent.")
EGRESS_ERRORS = Family("mcr_egress_errors", Kind.COUNTER, "The datagrams of result error, by error.")
EGRESS_BYTES = Family("mcr_egress_bytes", Kind.COUNTER, "Payload of what was sent.", "bytes")
WORKER_STATE = Family("mcr_worker_state", Kind.GAUGE, "1 for the state that a worker is in, 0 for the others.")
WORKER_RESTARTS = Family("mcr_worker_restarts", Kind.COUNTER, "Unexpected ends of a worker since this mcrd started.")
WORKER_INGRESS = Family(
    "mcr_worker_packets", Kind.COUNTER, "A worker's share of the datagrams that arrived, by result."
)
WORKER_DROPS = Family(
    "mcr_worker_kernel_drops", Kind.COUNTER, "A worker's share of the frames for a full capture ring."
)
WORKER_EGRESS = Family("mcr_worker_output_packets", Kind.COUNTER, "A worker's share of the datagrams owed, by result.")
WORKER_LOG = Family("mcr_worker_log_dropped", Kind.COUNTER, "Log records of a worker that were lost.")

_CAUSES = [field.name for field in attrs.fields(ParseErrors)]

SEND, IN_DOUBT = "send", "in_doubt"
"""Why datagrams were not sent: the kernel refused, or a worker died that had them in hand."""


def totals_page(
    stats: Stats, workers: Sequence[WorkerView], states: Mapping[RuleState, int], started: float, chosen: Format
) -> list[bytes]:
    """The page. `states`: rules in each; `started`: when, in seconds since 1970."""
    sections = {
        BUILD: [BUILD.line(kept_labels(version=mcr.__version__), 1)],
        START: [START.line("", f"{started:.3f}")],
        RULES: [RULES.line(kept_labels(state=state), states.get(state, 0)) for state in RuleState],
        **_ingress(stats.interfaces),
        **_egress(stats),
        **_workers(workers, stats.workers),
    }
    # One piece, for it is short: each of 36 would be handed on by itself.
    return [b"".join(page(((family, ("".join(lines).encode(),)) for family, lines in sections.items()), chosen))]


def _ingress(interfaces: Iterable[InterfaceStats]) -> dict[Family, list[str]]:
    results, causes, drops = [], [], []
    for each in interfaces:
        name = each.interface
        results += [INGRESS.line(kept_labels(interface=name, result=result), count) for result, count in _results(each)]
        causes += [
            PARSE_ERRORS.line(kept_labels(interface=name, cause=cause), count)
            for cause, count in zip(_CAUSES, error_counts(each.parse_errors), strict=True)
        ]
        drops.append(KERNEL_DROPS.line(kept_labels(interface=name), each.kernel_drops))
    return {INGRESS: results, PARSE_ERRORS: causes, KERNEL_DROPS: drops}


def _results(of: InterfaceStats | WorkerStats) -> Iterator[tuple[str, int]]:
    yield "matched", of.matched
    yield "parse_err", of.parse_err if isinstance(of, WorkerStats) else _all(of.parse_errors)
    yield "no_match", of.no_match
    yield "buf_exhaust", of.buf_exhaust


def _all(errors: ParseErrors) -> int:
    return sum(error_counts(errors))


def _egress(stats: Stats) -> dict[Family, list[str]]:
    egress = stats.egress
    return {
        OWED: [OWED.line("", egress.submitted)],
        EGRESS: [
            EGRESS.line(kept_labels(result="sent"), egress.sent),
            EGRESS.line(kept_labels(result="error"), egress.errors),
        ],
        EGRESS_ERRORS: [
            EGRESS_ERRORS.line(kept_labels(error=SEND), egress.errors - egress.in_doubt),
            EGRESS_ERRORS.line(kept_labels(error=IN_DOUBT), egress.in_doubt),
        ],
        EGRESS_BYTES: [EGRESS_BYTES.line("", egress.bytes)],
    }


def _workers(views: Iterable[WorkerView], shares: Iterable[WorkerStats]) -> dict[Family, list[str]]:
    sections: dict[Family, list[str]] = {WORKER_STATE: [], WORKER_RESTARTS: []}
    for view in views:
        sections[WORKER_STATE] += [
            WORKER_STATE.line(kept_labels(worker=view.worker_id, state=state), int(view.state is state))
            for state in WorkerState
        ]
        sections[WORKER_RESTARTS].append(WORKER_RESTARTS.line(kept_labels(worker=view.worker_id), view.restarts))
    sections |= {WORKER_INGRESS: [], WORKER_DROPS: [], WORKER_EGRESS: [], WORKER_LOG: []}
    for each in shares:
        worker = each.worker_id
        sections[WORKER_INGRESS] += [
            WORKER_INGRESS.line(kept_labels(worker=worker, result=result), count) for result, count in _results(each)
        ]
        sections[WORKER_DROPS].append(WORKER_DROPS.line(kept_labels(worker=worker), each.kernel_drops))
        sections[WORKER_EGRESS] += [
            WORKER_EGRESS.line(kept_labels(worker=worker, result="sent"), each.sent),
            WORKER_EGRESS.line(kept_labels(worker=worker, result="error"), each.errors),
        ]
        sections[WORKER_LOG].append(WORKER_LOG.line(kept_labels(worker=worker), each.log_dropped))
    return sections
