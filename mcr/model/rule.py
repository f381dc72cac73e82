"""Rules: one input, one or more outputs; how they change, and how they stand.

Values are frozen, validated when made, equal by content. Addresses are typed; an input and its outputs may be of
different families, as only the payload goes on.
"""

import enum
import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import combinations
from typing import Self

import attrs

from mcr.errors import InvalidParams
from mcr.model.flow import (
    IPV4,
    IPV6,
    LIMITED_BROADCAST,
    LOOPBACK,
    Address,
    Input,
    check_interface_name,
    check_port,
    check_scope,
    check_vlan,
    may_be_broadcast,
    sent_for,
)
from mcr.model.health import Health
from mcr.model.limits import DEFAULT_TRAIN, MAX_OUTPUTS_PER_RULE, MAX_TRAIN
from mcr.model.output_options import KEEP, Sockets, Source, check_dscp, check_source, check_source_port, check_ttl
from mcr.model.span import Span, check_span
from mcr.text.addresses import plain, span_text
from mcr.text.plurals import counted

AUTO = "auto"

OFF = "off"

_TRAIN_LENGTHS = frozenset(map(str, range(2, MAX_TRAIN + 1)))

_NO_OPTIONS = (None,) * 5

_NOTHING = (None,) * 7

_LABEL_MAX = 128


def check_label(value: str, what: str) -> str:
    """Return `value` if a rule can have it for its id or name."""
    if not value or len(value) > _LABEL_MAX or not value.isprintable() or value != value.strip():
        raise InvalidParams(
            f"Invalid {what}: {value!r}", f"1 to {_LABEL_MAX} printable characters, no white space at the ends"
        )
    return value


@attrs.frozen
class Output:
    """Where a rule sends: a group, host or broadcast address, a port, and the interface the datagram leaves by.

    Attributes:
        gso: how many datagrams that wait together may leave in one system call, for the kernel or the network card to
            cut apart (UDP segmentation offload): ``auto``, ``off``, or a number from 2 to 64.
        ttl: of the datagrams; ``keep`` or ``dec``: as they come, or one less; None: 1 to a group, and the system's
            (64) to a host.
        dscp: likewise; ``keep``: as they come, with the bits for ECN (RFC 6040); None: 0.
        source: an address of this machine that they come from; ``keep``: the one that each came from; None: that of
            the output interface.
        source_port: that they come from; ``keep``: the one that each came from; None: any, or with the source kept its
            port.
        vlan: that their frames are tagged with (IEEE 802.1Q); None: none.
        prefix: bits that the groups from `group` on have in common; None: it is this one alone. Of a range that the
            rule takes, each group and port goes to the one that has the same place here, if there are several.
        last_port: of the ports from `port` on; None: it is this one alone.
    """

    group: Address
    port: int
    interface: str
    gso: str = AUTO
    ttl: int | str | None = None
    dscp: int | str | None = None
    source: Source = None
    source_port: int | str | None = None
    vlan: int | None = None
    prefix: int | None = None
    last_port: int | None = None

    def __attrs_post_init__(self) -> None:
        is_group = self.group.is_multicast
        is_sent_to = is_group or self.group == LIMITED_BROADCAST
        reserved = not is_sent_to and self.group.version == IPV4 and self.group.is_reserved
        if not is_sent_to and (self.group.is_unspecified or self.group.is_loopback or reserved):
            raise InvalidParams(
                f"Invalid output group: {str(self.group)!r} is neither a group nor a host on a network",
                "a multicast group such as 239.1.1.1 or a host's address",
            )
        if is_group:
            check_scope(self.group, "output group")
        check_port(self.port, "output port")
        if self.is_range:
            check_span(self.group, self.port, self.prefix, self.last_port, "output")
        check_interface_name(self.interface, "output interface")
        if self.gso not in {AUTO, OFF} and self.gso not in _TRAIN_LENGTHS:
            raise InvalidParams(f"Invalid gso: {self.gso!r}", "auto, off, or a number of datagrams from 2 to 64")
        if (self.ttl, self.dscp, self.source, self.source_port, self.vlan) != _NO_OPTIONS:
            self._check_options(is_sent_to=is_sent_to)

    def _check_options(self, *, is_sent_to: bool) -> None:
        check_ttl(self.ttl)
        check_dscp(self.dscp)
        check_source(self.source, self.group)
        check_source_port(self.source_port, self.source)
        check_vlan(self.vlan, "output VLAN")
        if self.vlan is not None and self.group.version == IPV6:
            raise InvalidParams(
                f"Invalid output: {self.group} is IPv6, and vlan={self.vlan} is for IPv4",
                "make a device of the VLAN and send by that: "
                f"sudo ip link add link {self.interface} name {self.interface}.{self.vlan} type vlan id {self.vlan}",
            )
        if self.vlan is not None and not is_sent_to:
            raise InvalidParams(
                f"Invalid output: {self.group} is a host, and vlan={self.vlan} is for groups",
                "a host has to be asked for its MAC in its VLAN: make a device of the VLAN and send by that: "
                f"sudo ip link add link {self.interface} name {self.interface}.{self.vlan} type vlan id {self.vlan}",
            )

    @property
    def destination(self) -> tuple[Address | int | str, ...]:
        """What makes it another output than the next."""
        plain = self.group, self.port, self.interface
        tagged = plain if self.vlan is None else (*plain, self.vlan)
        return (*tagged, f"{self.prefix}-{self.last_port}") if self.is_range else tagged

    @property
    def where(self) -> str:
        """Groups and ports that it sends to: ``239.2.2.2:6000``, ``239.2.0.0/24:6000-6009``."""
        return span_text(self.group, self.port, self.prefix, self.last_port)

    @property
    def is_range(self) -> bool:
        """Whether it sends to several groups or ports."""
        return self.prefix is not None or self.last_port is not None

    @property
    def span(self) -> Span:
        """Groups and ports that it sends to."""
        return Span.of(self.group, self.port, self.prefix, self.last_port)

    @cached_property
    def is_plain(self) -> bool:
        """Whether it says nothing but where it sends."""
        asked = self.ttl, self.dscp, self.source, self.source_port, self.vlan, self.prefix, self.last_port
        return asked == _NOTHING and self.gso == AUTO

    @property
    def own_source(self) -> Address | None:
        """The address of this machine that it names."""
        return None if isinstance(self.source, str) else self.source

    @property
    def own_port(self) -> int:
        """The port that it names; 0: none."""
        return self.source_port if isinstance(self.source_port, int) else 0

    @property
    def keeps_source(self) -> bool:
        """Whether datagrams leave from where they came from."""
        return self.source == KEEP

    @property
    def keeps_port(self) -> bool:
        """Whether they leave from the port that they came from, as they do with the address: that is another's."""
        return self.source_port == KEEP or (self.source == KEEP and self.source_port is None)

    @property
    def sockets(self) -> tuple[str, Address, int, Sockets]:
        """What it shares its sockets by, where IP has the say: interface, destination, port of its own, their kind."""
        kind, port = Sockets.UDP, self.own_port
        if self.keeps_source:
            kind, port = Sockets.FOREIGN, 0
        elif self.keeps_port:
            kind, port = Sockets.RAW, 0
        return self.interface, sent_for(self.group), port, kind

    @property
    def max_train(self) -> int:
        """Datagrams that may leave in one system call."""
        if self.vlan is not None or self.keeps_source or self.keeps_port:
            return 1  # UDP sockets could not cut one that is refused; raw ones cut none
        return {AUTO: DEFAULT_TRAIN, OFF: 1}.get(self.gso) or int(self.gso)

    def __str__(self) -> str:
        tag = "" if self.vlan is None else f":vlan={self.vlan}"
        return f"{self.where}:{self.interface}{tag}"


def automatic_rule_id(source: Input) -> str:
    """The stable id of a rule that was given none: a hash of its input tuple, the same on every machine."""
    text = f"{source.interface}|{plain(source.group)}|{source.port}"
    if source.vlan is not None:
        text += f"|vlan={source.vlan}"
    if source.sources:
        text += f"|sources={','.join(map(str, source.sources))}"
    if source.prefix is not None:
        text += f"|prefix={source.prefix}"
    if source.last_port is not None:
        text += f"|last_port={source.last_port}"
    return hashed_id(text)


def hashed_id(text: str) -> str:
    """The automatic id of a rule whose input reads like this."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def check_outputs(outputs: Sequence[Output], called: Callable[[], str]) -> None:
    """Return if a rule can have these outputs, whatever its input is. `called`: how an error is to name the rule."""
    if not outputs:
        raise InvalidParams(f"{called()} has no outputs", "give at least one output G:P:IF")
    if len(outputs) > MAX_OUTPUTS_PER_RULE:
        raise InvalidParams(f"{called()} has {len(outputs)} outputs", f"at most {MAX_OUTPUTS_PER_RULE} a rule")
    if len(outputs) > 1:
        _check_apart(outputs, called)


def _check_apart(outputs: Sequence[Output], called: Callable[[], str]) -> None:
    """Raise `InvalidParams` if two send to one group and port by the same interface."""
    seen: set[tuple[Address | int | str, ...]] = set()
    for output in outputs:
        if output.destination in seen:
            raise InvalidParams(
                f"{called()} names output {output} twice", "every packet would leave twice; name it once"
            )
        seen.add(output.destination)
    for one, other in combinations(outputs, 2) if any(output.is_range for output in outputs) else ():
        same = (one.interface, one.vlan) == (other.interface, other.vlan) and (one.is_range or other.is_range)
        if same and one.span.meets(other.span):
            raise InvalidParams(
                f"{called()} sends to {one} and {other}, which have groups and ports in common",
                "packets would leave there twice; name each once",
            )


def _check_size(source: Input, output: Output, called: Callable[[], str]) -> None:
    """Raise `InvalidParams` unless each group and port has one that it goes to."""
    for what, taken, sent in (
        ("group", source.span.groups, output.span.groups),
        ("port", source.span.ports, output.span.ports),
    ):
        if sent not in {1, taken}:
            raise InvalidParams(
                f"{called()} takes {counted(taken, what)}, and {output} has {counted(sent, what)}",
                "each goes to the one that has its place in the output: name as many as the input has, "
                "or a single one, which gets all",
            )


@attrs.frozen
class Rule:
    """One input, one or more outputs. `rule_id` is unique; so is the input tuple; so is the name, if there is one.

    Attributes:
        health: what is watched of its stream.
    """

    rule_id: str
    input: Input
    outputs: tuple[Output, ...]
    name: str | None = None
    health: Health = Health.NONE

    def __attrs_post_init__(self) -> None:
        check_label(self.rule_id, "rule id")
        if self.name is not None:
            check_label(self.name, "rule name")
        check_outputs(self.outputs, lambda: self._called)
        is_range = self.input.is_range
        if is_range and self.health is not Health.NONE:
            raise InvalidParams(
                f"{self._called} takes several flows, and health={self.health} is about one stream",
                "add a rule for the stream alone: it goes before the range",
            )
        for output in self.outputs:
            if is_range or output.is_range:
                _check_size(self.input, output, lambda: self._called)
            if (output.interface, output.vlan) == (self.input.interface, self.input.vlan) and self.input.span.meets(
                output.span
            ):
                raise InvalidParams(
                    f"{self._called} sends {output} back to where it came from",
                    "receivers there would get every packet twice; choose another group, port or interface",
                )
            if output.keeps_source and output.group.version != self.input.group.version:
                raise InvalidParams(
                    f"{self._called} sends to {output} with source=keep, but takes IPv{self.input.group.version}",
                    f"send to IPv{self.input.group.version}, or let the source be the relay's",
                )
            stays = self.input.is_own and (self.input.interface == LOOPBACK or not may_be_broadcast(output.group))
            if stays and self.input.span.meets(output.span):
                raise InvalidParams(
                    f"{self._called} sends {output} to the address that it takes: that does not leave this machine",
                    "name the host, group or broadcast address that is to get it",
                )

    @property
    def label(self) -> str:
        """Its id, with its name: for the log."""
        return f"{self.rule_id} ({self.name})" if self.name else self.rule_id

    @property
    def interfaces(self) -> tuple[str, ...]:
        """Names of its interfaces: the input's, then the outputs'; one may be there several times."""
        return (self.input.interface, *(output.interface for output in self.outputs))

    @property
    def _called(self) -> str:
        """How its author knows it: by its id only if he gave it, since he has not seen another."""
        automatic = self.rule_id == automatic_rule_id(self.input)
        return f"The rule for {self.input}" if automatic else f"Rule {self.rule_id}"


class RuleState(enum.StrEnum):
    """Whether a rule forwards."""

    PENDING = "pending"
    """Accepted; not every running worker has acknowledged it yet."""

    ACTIVE = "active"
    """Every running worker has acknowledged it, and what it needs is there."""

    DEGRADED = "degraded"
    """Some outputs can't be served, or all; or the input only in part."""

    WAITING = "waiting"
    """What it needs is missing, or down: for a rule its input. It goes on by itself when that is back."""


class Origin(enum.StrEnum):
    """Who keeps a rule."""

    FILE = "file"
    """It stands in a configuration file, and is removed there."""

    RUNTIME = "runtime"
    """It was added by `mcrctl add` or another client."""


class Path(enum.StrEnum):
    """Which way a rule's packets take."""

    KERNEL = "kernel"
    """A program at the input interface forwards them, and wakes nobody."""

    WORKER = "worker"
    """The workers forward them."""


@attrs.frozen
class OutputView(Output):
    """An output of a rule as `mcrctl list` shows it.

    Attributes:
        state: ``active``, ``waiting``, or ``pending`` with its rule.
        reason: one sentence; empty when it is active.
    """

    state: RuleState = attrs.field(default=RuleState.ACTIVE, kw_only=True)
    reason: str = attrs.field(default="", kw_only=True)

    def __attrs_post_init__(self) -> None:
        """It was checked as an output: there may be thousands to be shown."""

    @classmethod
    def of(cls, output: Output, state: RuleState = RuleState.ACTIVE, reason: str = "") -> Self:
        """An output and its state."""
        options = output.gso, output.ttl, output.dscp, output.source, output.source_port, output.vlan
        rest = *options, output.prefix, output.last_port
        return cls(output.group, output.port, output.interface, *rest, state=state, reason=reason)


@attrs.frozen
class RuleView:
    """A rule as `mcrctl list` shows it.

    Attributes:
        reason: one sentence that says why it is not active; empty when it is.
        warnings: what may surprise about it, active or not.
        path: that its packets take; single ones that need a worker take the other.
        path_reason: one sentence that says why that is not the kernel's; empty if it is.
    """

    rule_id: str
    name: str | None
    input: Input
    outputs: tuple[OutputView, ...]
    state: RuleState
    reason: str = ""
    warnings: tuple[str, ...] = ()
    origin: Origin = Origin.RUNTIME
    path: Path = Path.KERNEL
    path_reason: str = ""
    health: Health = Health.NONE


NO_RULES = 1
"""The generation that everything starts with: it has no rules."""


@attrs.frozen
class RuleChange:
    """One step of the rule set. Applying generation N to the rules of generation N-1 gives those of N.

    `changed`: rules that take the place of those with their ids, and have their inputs. `wait`: rules may name
    interfaces that are not there, and wait for them. `renew`: the rules stay, but interfaces
    that were deleted, or left, and are back are opened again; so are those that were waited for.
    """

    generation: int
    added: tuple[Rule, ...] = ()
    removed: tuple[Rule, ...] = ()
    changed: tuple[Rule, ...] = ()
    renew: bool = False
    wait: bool = False
