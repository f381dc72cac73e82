"""The table of methods, and what is written by it elsewhere."""

import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import attrs
import pytest

from mcr.cli.client import CHANGING
from mcr.control.methods import METHODS, changes, examines
from mcr.control.structure import RuleParams
from mcr.model.rule import Rule

DOCUMENT = Path(__file__).parents[2] / "docs" / "control-protocol.md"


def documented() -> dict[str, str]:
    """What the document says of each method, without its examples."""
    _, _, methods = DOCUMENT.read_text().partition("\n## Methods\n")
    methods, _, _ = methods.partition("\n## ")
    sections = re.findall(r"^### (.*)\n((?:(?!### ).*\n)*)", methods, re.MULTILINE)
    return {
        name: re.sub(r"^```\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        for heading, text in sections
        for name in heading.split(", ")
    }


def parameters(cls: Any) -> set[str]:
    """Names of a class's members as JSON has them, those of members that are objects included."""
    if cls is Rule:
        return parameters(RuleParams)
    if args := get_args(cls):
        return set().union(*map(parameters, args))
    if not attrs.has(cls):
        return set()
    hints = {name: each for name, each in get_type_hints(cls).items() if name in attrs.fields_dict(cls)}
    return {*hints, *set().union(*map(parameters, hints.values()))}


def test_the_document_has_every_method_and_no_other() -> None:
    assert documented().keys() == METHODS.keys()


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_the_document_names_every_parameter(method: Any) -> None:
    assert {*re.findall(r"`(\w+)`", documented()[method.name])} >= parameters(method.params)


def test_the_parameters_that_are_looked_for_are_those_that_there_are() -> None:
    """Else the test before could find none, and pass."""
    assert parameters(METHODS["add"].params) == {
        *("rules", "rule_id", "name", "input", "outputs", "interface", "group", "port", "wait", "idempotent"),
        *("vlan", "sources", "gso", "ttl", "dscp", "source", "source_port", "health", "prefix", "last_port"),
    }


def test_the_document_and_mcrctl_know_which_methods_change_something() -> None:
    """mcrctl has a list of its own: to read the table takes longer than most of its commands."""
    changing = {name for name in METHODS if changes(name)}
    (row,) = re.findall(r": everything but (.*) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert {*re.findall(r"`([\w.]+)`", row)} == CHANGING == changing


def test_a_method_that_there_is_not_takes_no_right() -> None:
    """Whoever asks for it is told that there is none."""
    assert not changes("lst")
    assert not examines("lst")
