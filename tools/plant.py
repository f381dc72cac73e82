"""The plant of `make chaos`: a source and a receiver, each with four cables to the relay, and 200 rules."""

from collections.abc import Sequence
from typing import Any

import attrs

from flaps import PROBE_PORT, Cable, Probe
from lab import Lab, Namespace

RULES = 200
INPUTS, OUTPUTS = ("in0", "in1", "in2", "in3"), ("out0", "out1", "out2", "out3")
FLAPPING = ("in1", "in2", "out1", "out2")  # in0 and out0 are the streams', in3 and out3 stay, too
STREAMS = ("239.1.1.1:5000", "239.1.1.2:5000")
OUTPUT_PORT = 6000  # of groups


@attrs.frozen
class Plant:
    """A source and a receiver, each with four cables to the relay."""

    lab: Lab
    source: Namespace
    relay: Namespace
    receiver: Namespace
    cables: dict[str, Cable]

    @classmethod
    def build(cls, lab: Lab) -> "Plant":
        """Make it."""
        source, relay, receiver = (lab.namespace(name) for name in ("source", "relay", "receiver"))
        cables = {}
        for number, name in enumerate((*INPUTS, *OUTPUTS)):
            neighbour = source if name in INPUTS else receiver
            end = name.replace("in", "src").replace("out", "rx")
            cables[name] = Cable(lab, relay, name, neighbour, end, number)
            cables[name].connect()
        return cls(lab, source, relay, receiver, cables)

    def probe(self, name: str) -> Probe:
        """Through an interface, and through one that stays."""
        number = self.cables[name].number
        source, sink = (name, "out3") if name in INPUTS else ("in3", name)
        return Probe(self.cables[source], f"239.1.9.{number}", self.cables[sink], f"239.2.9.{number}")


@attrs.frozen
class PlantRule:
    """One of the 200."""

    number: int
    source: str
    outputs: tuple[tuple[str, int, str], ...]

    @classmethod
    def make(cls, plant: Plant, number: int) -> "PlantRule":
        """Its interfaces by its number: each input with each output; one in four sends to a host, too."""
        sinks = [OUTPUTS[(number // 4 + each) % 4] for each in range(1 + number % 3)]
        outputs = [(f"239.20.{plant.cables[sink].number}.{number + 1}", OUTPUT_PORT, sink) for sink in sinks]
        if number % 4 == 0:
            outputs.append((plant.cables[sinks[0]].host, 20000 + number, sinks[0]))
        return cls(number, INPUTS[number % 4], tuple(outputs))

    @property
    def group(self) -> str:
        """Of its input."""
        return f"239.10.0.{self.number + 1}"

    def value(self) -> dict[str, Any]:
        """As the control protocol has it."""
        return rule(f"plant-{self.number}", self.source, self.group, 5000, *self.outputs)

    def flows(self, plant: Plant) -> list[str]:
        """What the receiver gets of it."""
        source = f"{self.group}:5000"
        return [
            f"{to}:{port}={source}" if port != OUTPUT_PORT else f"{to}:{port}@{plant.cables[sink].end}={source}"
            for to, port, sink in self.outputs
        ]


def rule(rule_id: str, interface: str, group: str, port: int, *outputs: tuple[str, int, str]) -> dict[str, Any]:
    """Make a rule as the control protocol has it."""
    return {
        "rule_id": rule_id,
        "input": {"interface": interface, "group": group, "port": port},
        "outputs": [{"group": to, "port": to_port, "interface": out} for to, to_port, out in outputs],
    }


def fixed_rules(plant: Plant, rules: Sequence[PlantRule]) -> list[dict[str, Any]]:
    """All that stay as they are."""
    made = [each.value() for each in rules]
    for number, stream in enumerate(STREAMS):
        group, port = stream.split(":")
        made.append(rule(f"stream-{number}", "in0", group, int(port), (f"239.2.2.{number + 1}", OUTPUT_PORT, "out0")))
    for name in FLAPPING:
        probe = plant.probe(name)
        to = (probe.to, PROBE_PORT, probe.sink.name)
        made.append(rule(f"probe-{name}", probe.source.name, probe.group, PROBE_PORT, to))
    return made
