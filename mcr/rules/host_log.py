"""Words for the log: hosts that outputs send to stop answering, and answer again. Many at once are one line."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from mcr.model.flow import Address, resolution_to
from mcr.model.log import Level
from mcr.net import uapi
from mcr.net.network import Network
from mcr.rules.conditions import Attachment, Hop
from mcr.text.plurals import counted

_BURST: Final = 5  # times that something is said, before it is said seldom
_APART: Final = 10.0  # seconds between two times then

_Destination = tuple[Address, str]


class HostLog:
    """What there is to be said of hosts, by address and output interface. What is held back is said as it is later."""

    def __init__(self) -> None:
        self._outputs: Counter[_Destination] = Counter()
        self._silent: dict[_Destination, Address] = {}  # by whom they wait for: the host, or the gateway to it
        self._said: dict[_Destination, Address] = {}
        self._left: float = _BURST
        self._at = 0.0

    def note(
        self,
        hosts: Iterable[_Destination],
        hops: Mapping[_Destination, Hop],
        outputs: Mapping[str, Attachment],
        network: Network,
    ) -> None:
        """Take in which hosts answer. A silent host stays silent until heard of, also if the kernel has forgotten it.

        Args:
            hosts: of all outputs, each as often as there are outputs to it.
            hops: how they are reached, as far as that is known.
            outputs: the interfaces, by name.
            network: as it is.
        """
        self._outputs = Counter(hosts)
        for known in (self._silent, self._said):
            for gone in known.keys() - self._outputs.keys():
                del known[gone]
        for (host, name), hop in hops.items():
            neighbour = network.neighbours.get((outputs[name].index, hop.neighbour)) if name in outputs else None
            if neighbour and neighbour.silent:
                self._silent[host, name] = hop.neighbour
            elif neighbour and neighbour.state & uapi.NUD_VALID:
                self._silent.pop((host, name), None)

    def lines(self, time: float) -> list[tuple[Level, str]]:
        """The lines that are due now. `time` in seconds, of a clock that is not set."""
        self._left = min(_BURST, self._left + (time - self._at) / _APART)
        self._at = time
        fresh = {each: who for each, who in self._silent.items() if each not in self._said}
        again = {each: who for each, who in self._said.items() if each not in self._silent}
        if not (fresh or again) or self._left < 1:
            return []
        self._left -= 1
        self._said = dict(self._silent)
        lines = []
        if fresh:
            who, several, outputs, one = self._words(fresh)
            asked = " or ".join(sorted({resolution_to(each) for each in fresh.values()}))
            verb, waits = "do not answer" if several else "does not answer", "waits" if one else "wait"
            lines.append((Level.WARNING, f"{who} {verb} {asked}: {outputs} {waits}"))
        if again:
            who, several, outputs, one = self._words(again)
            verb, goes = "answer again" if several else "answers again", "goes" if one else "go"
            lines.append((Level.NOTICE, f"{who} {verb}: {outputs} {goes} on"))
        return lines

    def _words(self, those: Mapping[_Destination, Address]) -> tuple[str, bool, str, bool]:
        """Who they are, whether they are several, their outputs, and whether it is only one."""
        waited_for = dict.fromkeys((neighbour, name) for (_, name), neighbour in those.items())
        (first, on), *others = waited_for
        via = "" if (first, on) in those else "the gateway "
        more = f" and {counted(len(others), 'more neighbour')}" if others else ""
        outputs = sum(self._outputs[each] for each in those)
        return f"{via}{first} on {on}{more}", bool(others), counted(outputs, "output"), outputs == 1
