"""What an operator changes of a rule that is there."""

import shlex

import attrs

from mcr.errors import InvalidParams
from mcr.model.flow import Address
from mcr.model.health import Health
from mcr.model.rule import Output, Rule

_SHOWN = 5  # outputs in a hint


@attrs.frozen
class RuleEdit:
    """A change of a rule's outputs or name, or of what is watched of its stream; its input and id are what it is.

    Attributes:
        outputs: all that it has then; None: those that it has.
        add_outputs: more of them; one that is there already gets these options.
        remove_outputs: fewer of them, whatever their options.
        new_name: None: it keeps its name.
        health: None: what is watched of its stream stays the same.
    """

    outputs: tuple[Output, ...] | None = None
    add_outputs: tuple[Output, ...] = ()
    remove_outputs: tuple[Output, ...] = ()
    new_name: str | None = None
    health: Health | None = None

    def __attrs_post_init__(self) -> None:
        if self.outputs is not None and (self.add_outputs or self.remove_outputs):
            raise InvalidParams("Give either outputs, or add_outputs and remove_outputs", "see the rule: mcrctl list")
        if self.outputs is None and self.new_name is None and self.health is None and not self.named:
            raise InvalidParams(
                "Nothing to change", "give one or more of: outputs, add_outputs, remove_outputs, new_name, health"
            )

    @property
    def named(self) -> tuple[Output, ...]:
        """All outputs in it."""
        return (*(self.outputs or ()), *self.add_outputs, *self.remove_outputs)

    def of(self, rule: Rule) -> Rule:
        """The rule as it is then.

        Raises:
            InvalidParams: it has no such output to remove, or can't be like that.
        """
        name = rule.name if self.new_name is None else self.new_name
        health = rule.health if self.health is None else self.health
        if self.outputs is not None:
            return attrs.evolve(rule, outputs=self.outputs, name=name, health=health)
        outputs = {output.destination: output for output in rule.outputs}
        for output in self.remove_outputs:
            if not outputs.pop(output.destination, None):
                raise InvalidParams(
                    f"Rule {rule.rule_id} has no output {output}",
                    f"its outputs are {', '.join(map(str, rule.outputs[:_SHOWN]))}"
                    + (f" and {len(rule.outputs) - _SHOWN} more (mcrctl list)" if len(rule.outputs) > _SHOWN else ""),
                )
        seen: set[tuple[Address | int | str, ...]] = set()
        for output in self.add_outputs:
            if output.destination in seen:
                raise InvalidParams(f"Output {output} is to be added twice", "name it once")
            seen.add(output.destination)
            outputs[output.destination] = output
        if not outputs:
            raise InvalidParams(
                f"Rule {rule.rule_id} has no outputs then",
                f"remove the rule: mcrctl remove --rule-id {shlex.quote(rule.rule_id)}",
                "or give others in the same change: --add-outputs G:P:IF",
            )
        return attrs.evolve(rule, outputs=tuple(outputs.values()), name=name, health=health)
