"""Clients that change rules at random, and keep books: which rules must be there after a crash of the daemon.

A change that was acknowledged must have lasted. One that was refused has changed nothing. One that got no answer,
because the daemon was killed, may be there as a whole, or not at all.
"""

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs

from mcr.errors import McrError, SystemFault

UNKNOWN = "the change may still be carried out"  # so begins the hint of mcrctl's client that got no answer
RULES = 40  # of a client, at most
BATCH = 8
FILE_RULES = 12
FLAT = "[[rule]]\nrule_id = {!r}\ninput = {{ interface = {!r}, group = {!r}, port = {} }}\noutputs = {!r}\n"

Call = Callable[[str, dict[str, Any]], Any]


@attrs.frozen
class Shape:
    """What may change of a rule."""

    name: str | None
    outputs: frozenset[tuple[str, int, str]]

    @classmethod
    def of(cls, rule: dict[str, Any]) -> "Shape":
        """As `list` shows it."""
        return cls(
            rule["name"], frozenset((each["group"], each["port"], each["interface"]) for each in rule["outputs"])
        )

    @property
    def values(self) -> list[dict[str, Any]]:
        """The outputs, as the control protocol has them."""
        return as_values(self.outputs)


def as_values(outputs: Iterable[tuple[str, int, str]]) -> list[dict[str, Any]]:
    """Outputs, as the control protocol has them."""
    return [{"group": group, "port": port, "interface": name} for group, port, name in sorted(outputs)]


Rules = dict[str, Shape]
"""By their ids."""


class Away(Exception):
    """The daemon does not answer any more."""


class Refused(Exception):
    """It refused what it should have done."""


class Ledger(Protocol):
    """One client's, about rules whose ids nobody else uses."""

    prefix: str

    def change(self, chance: random.Random) -> str:
        """Make a change; the name of its kind.

        Raises:
            Away: with what may have been done or not noted.
            Refused: it should have been done.
        """

    def settle(self, found: Rules) -> list[str]:
        """Compare with what is there, and go on from that; what is wrong, in words."""


class RuntimeLedger:
    """Of rules that are added, changed and removed over the control socket."""

    def __init__(
        self, number: int, inputs: Sequence[str], outputs: Sequence[str], call: Call, tolerated: Sequence[str] = ()
    ) -> None:
        """Nothing is there yet.

        Args:
            number: of the client.
            inputs: interfaces.
            outputs: interfaces.
            call: carries out a method of the control protocol.
            tolerated: beginnings of refusals that are right.
        """
        self.prefix = f"client-{number}-"
        self._number = number
        self._inputs, self._outputs = inputs, outputs
        self._call = call
        self._tolerated = tuple(tolerated)
        self._rules: Rules = {}
        self._doubt: dict[str, Shape | None] = {}

    def change(self, chance: random.Random) -> str:
        """See `Ledger`."""
        kinds = [self._add, self._add, self._add_again, self._edit, self._edit, self._remove, self._remove_some]
        method, params, after = chance.choice(kinds if self._rules else [self._add])(chance)
        return self._carry_out(method, params, after)

    def settle(self, found: Rules) -> list[str]:
        """See `Ledger`."""
        undone, done = self._rules, _updated(self._rules, self._doubt)
        self._rules, self._doubt = found, {}
        return [] if found in (undone, done) else _differences(found, undone, done)

    def _carry_out(self, method: str, params: dict[str, Any], after: dict[str, Shape | None]) -> str:
        self._doubt = after
        try:
            self._call(method, params)
        except SystemFault as error:  # nobody is there
            self._doubt = {}
            raise Away(error.message) from None
        except McrError as error:
            if any(hint.startswith(UNKNOWN) for hint in error.hints):
                raise Away(f"{method}: {error.message}") from None
            self._doubt = {}
            if error.message.startswith(self._tolerated):
                return f"{method} refused"
            raise Refused(f"{self.prefix}: {method} {params}: {error.message}") from None
        self._rules, self._doubt = _updated(self._rules, after), {}
        return method

    # Kinds of changes: the method, its parameters, and what is there of these rules afterwards.

    def _add(self, chance: random.Random) -> tuple[str, dict[str, Any], dict[str, Shape | None]]:
        free = [number for number in range(RULES) if f"{self.prefix}{number}" not in self._rules]
        if not free:
            return self._remove(chance)
        chosen = chance.sample(free, min(len(free), chance.choice((1, 1, BATCH))))
        fresh = {f"{self.prefix}{number}": self._invent(f"{self.prefix}{number}", chance) for number in chosen}
        return "add", {"rules": [*map(self._value, fresh, fresh.values())], "wait": True}, {**fresh}

    def _add_again(self, chance: random.Random) -> tuple[str, dict[str, Any], dict[str, Shape | None]]:
        method, params, after = self._add(chance)
        if method == "add":
            known = chance.sample(sorted(self._rules), min(3, len(self._rules)))
            params["rules"] += [self._value(rule_id, self._rules[rule_id]) for rule_id in known]
            params["idempotent"] = True
        return method, params, after

    def _edit(self, chance: random.Random) -> tuple[str, dict[str, Any], dict[str, Shape | None]]:
        rule_id = chance.choice(sorted(self._rules))
        before, fresh = self._rules[rule_id], self._invent(rule_id, chance)
        more, less = fresh.outputs - before.outputs, frozenset(sorted(before.outputs)[1:])
        edits: list[tuple[dict[str, Any], Shape]] = [({"outputs": fresh.values}, Shape(before.name, fresh.outputs))]
        if more:
            edits.append(({"add_outputs": as_values(more)}, Shape(before.name, before.outputs | more)))
        if less:
            edits.append(({"remove_outputs": as_values(less)}, Shape(before.name, before.outputs - less)))
        if fresh.name:
            edits.append(({"new_name": fresh.name}, Shape(fresh.name, before.outputs)))
        edit, now = chance.choice(edits)
        return "change", {"rule_id": rule_id, "wait": True} | edit, {rule_id: now}

    def _remove(self, chance: random.Random) -> tuple[str, dict[str, Any], dict[str, Shape | None]]:
        rule_id = chance.choice(sorted(self._rules))
        return "remove", {"rule_id": rule_id}, {rule_id: None}

    def _remove_some(self, chance: random.Random) -> tuple[str, dict[str, Any], dict[str, Shape | None]]:
        pattern = f"{self.prefix}{chance.randrange(1, 10)}"
        chosen = [rule_id for rule_id in self._rules if rule_id.startswith(pattern)]
        if not chosen:
            return self._remove(chance)
        return "remove", {"rule_ids": [f"{pattern}*"]}, dict.fromkeys(chosen)

    def _invent(self, rule_id: str, chance: random.Random) -> Shape:
        name = f"{rule_id}.{chance.randrange(100)}" if chance.random() < 1 / 2 else None
        return Shape(name, invent_outputs(self._number, self._outputs, chance))

    def _value(self, rule_id: str, shape: Shape) -> dict[str, Any]:
        number = int(rule_id.removeprefix(self.prefix))
        interface = self._inputs[number % len(self._inputs)]
        source = {"interface": interface, "group": f"239.4.{self._number}.1", "port": 7000 + number}
        named = {"name": shape.name} if shape.name else {}
        return {"rule_id": rule_id, "input": source, "outputs": shape.values} | named


class FileLedger:
    """Of a configuration file that is written and applied, and of rules of run time that give way to it."""

    prefix = "shared-"
    in_file = "file-"

    def __init__(self, path: Path, inputs: Sequence[str], outputs: Sequence[str], call: Call) -> None:
        """Write the file; see `RuntimeLedger`."""
        self._path, self._call = path, call
        self._inputs, self._outputs = inputs, outputs
        self._shared: Rules = {}
        self._doubt: dict[str, Shape | None] = {}
        self._file: Rules = {}
        self._write({})

    def change(self, chance: random.Random) -> str:
        """See `Ledger`."""
        number = chance.randrange(FILE_RULES)
        rule_id = f"{self.prefix}{number}"
        if chance.random() < 1 / 2 or f"{self.in_file}{number}" in self._file:
            return self._apply(chance)
        if rule_id in self._shared:
            return self._carry_out("remove", {"rule_id": rule_id}, {rule_id: None})
        shape = Shape(None, invent_outputs(0, self._outputs, chance))
        rule = {"rule_id": rule_id, "input": self._input(number), "outputs": shape.values}
        return self._carry_out("add", {"rules": [rule]}, {rule_id: shape})

    def settle(self, found: Rules) -> list[str]:
        """See `Ledger`. What the file says is in force, and rules that it has a rival of are not."""
        undone, done = self._expected(self._shared), self._expected(_updated(self._shared, self._doubt))
        if found == done:
            self._shared = _updated(self._shared, self._doubt)
        self._doubt = {}
        return [] if found in (undone, done) else _differences(found, undone, done)

    def _expected(self, shared: Rules) -> Rules:
        hidden = {rule_id.replace(self.in_file, self.prefix) for rule_id in self._file}
        return self._file | {rule_id: shape for rule_id, shape in shared.items() if rule_id not in hidden}

    def _apply(self, chance: random.Random) -> str:
        chosen = chance.sample(range(FILE_RULES), chance.randrange(FILE_RULES))
        kept = self._file if chance.random() < 1 / 2 else {}
        fresh = {f"{self.in_file}{each}": Shape(None, invent_outputs(0, self._outputs, chance)) for each in chosen}
        self._write(fresh | {rule_id: kept[rule_id] for rule_id in fresh.keys() & kept.keys()})
        return self._carry_out("config.apply", {}, {})

    def _write(self, rules: Rules) -> None:
        """Replace the file; what it says counts from this moment on."""
        text = ""
        for rule_id, shape in rules.items():
            source = self._input(int(rule_id.removeprefix(self.in_file)))
            outputs = [f"{group}:{port}:{name}" for group, port, name in sorted(shape.outputs)]
            text += FLAT.format(rule_id, source["interface"], source["group"], source["port"], outputs)
        fresh = self._path.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, self._path)  # noqa: PTH105 - the atomic one, by its name
        self._file = rules

    def _input(self, number: int) -> dict[str, Any]:
        interface = self._inputs[number % len(self._inputs)]
        return {"interface": interface, "group": "239.4.200.1", "port": 7000 + number}

    def _carry_out(self, method: str, params: dict[str, Any], after: dict[str, Shape | None]) -> str:
        self._doubt = after
        try:
            answer = self._call(method, params)
        except SystemFault as error:
            self._doubt = {}
            raise Away(error.message) from None
        except McrError as error:
            if any(hint.startswith(UNKNOWN) for hint in error.hints):
                raise Away(f"{method}: {error.message}") from None
            raise Refused(f"{method} {params}: {error.message}") from None
        if method == "config.apply" and answer["faults"]:
            raise Refused(f"{method}: {answer['faults']}")
        self._shared, self._doubt = _updated(self._shared, after), {}
        return method


class Clients:
    """Ledgers at work, a thread each, until the daemon is away or they are told to stop."""

    def __init__(self, ledgers: Sequence[Ledger], seed: int, pause: float = 0.0) -> None:
        """Begin. `pause`: seconds between two changes, at most."""
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self._away: list[str] = []
        self._ledgers, self._pause = ledgers, pause
        self._stopping = threading.Event()
        self._threads = []
        for number, ledger in enumerate(ledgers):
            chance = random.Random(f"{seed} {number}")  # noqa: S311 - nobody is to be kept from guessing it
            self._threads.append(threading.Thread(target=self._run, args=(ledger, chance)))
            self._threads[-1].start()

    def ended(self) -> list[str]:
        """Those that have ended by themselves, which only the daemon's death is a reason for, in words."""
        return [f"a client has ended while mcrd lived: {each}" for each in self._away]

    def join(self, *, stop: bool = False) -> None:
        """Wait until all have ended: because the daemon was killed, or because they are to stop."""
        if stop:
            self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, ledger: Ledger, chance: random.Random) -> None:
        try:
            while not self._stopping.wait(chance.uniform(0, self._pause)):
                self.done[ledger.change(chance)] += 1
        except Away as error:
            self._away.append(str(error))
        except Exception as error:  # noqa: BLE001 - a thread's failure is the run's, told at the end
            self.failures.append(repr(error))


def judge(ledgers: Sequence[Ledger], rules: Sequence[dict[str, Any]]) -> list[str]:
    """What is wrong with the rules that `list` shows, in words; those of nobody are not looked at."""
    wrong = []
    for ledger in ledgers:
        prefixes = (ledger.prefix, FileLedger.in_file) if isinstance(ledger, FileLedger) else (ledger.prefix,)
        found = {each["rule_id"]: Shape.of(each) for each in rules if each["rule_id"].startswith(prefixes)}
        wrong += ledger.settle(found)
    return wrong


def invent_outputs(number: int, interfaces: Sequence[str], chance: random.Random) -> frozenset[tuple[str, int, str]]:
    """One to three of a client."""
    return frozenset(
        (f"239.5.{number}.{chance.randrange(1, 255)}", chance.randrange(7000, 7100), chance.choice(interfaces))
        for _ in range(chance.randrange(1, 4))
    )


def _updated(rules: Rules, changes: dict[str, Shape | None]) -> Rules:
    merged = {**rules, **changes}
    return {rule_id: shape for rule_id, shape in merged.items() if shape is not None}


def _differences(found: Rules, undone: Rules, done: Rules) -> list[str]:
    return [
        f"rule {rule_id} is {found.get(rule_id)}; it was {undone.get(rule_id)}, and is or may be {done.get(rule_id)}"
        for rule_id in sorted({*found, *undone, *done})
        if len({found.get(rule_id), undone.get(rule_id), done.get(rule_id)}) > 1
    ]
