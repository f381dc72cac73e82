"""Rules of configuration files, and those that give way to them."""

from ipaddress import IPv4Address

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.config.document import read_document
from mcr.config.file import FileRule, Place
from mcr.errors import RuleExists, RuleInFile
from mcr.model.flow import Input
from mcr.model.rule import Output, Rule
from mcr.model.selection import Selection
from mcr.rules.catalog import Catalog, Entry, marked
from mcr.rules.file_rules import Exchange, FileRules, Precedence

DOCUMENT = read_document("[[rule]]\n" * 20)


def rule(rule_id: str, port: int = 1, name: str | None = None, output: int = 1) -> Rule:
    source = Input("eth0", IPv4Address("239.1.1.1"), port)
    return Rule(rule_id, source, (Output(IPv4Address("239.2.2.2"), output, "eth1"),), name)


def in_files(*rules: Rule) -> FileRules:
    return FileRules(FileRule(each, Place("mcr.toml", DOCUMENT, ("rule", index))) for index, each in enumerate(rules))


def entry(rule: Rule, *, from_file: bool = False) -> Entry:
    return Entry(rule, 2, (), from_file)


@pytest.mark.parametrize(
    "other",
    [rule("b", 1, "x"), rule("a", 2, "x"), rule("b", 2, "n"), rule("n", 2, "x"), rule("b", 2, "a")],
    ids=["input", "id", "name", "the name as its id", "the id as its name"],
)
def test_a_rule_gives_way_to_one_that_shares_a_part_of_its_identity(other: Rule) -> None:
    precedence, stated = Precedence(), rule("a", 1, "n")
    plan = precedence.plan([entry(other)], in_files(stated))
    if other.rule_id == "a" and other.input == stated.input:
        assert plan.changed == (stated,)
    else:
        assert plan == Exchange(added=(stated,), removed=(other,), changed=(), aside=(other,))
    precedence.note(in_files(stated), plan.aside)
    back = precedence.plan([entry(stated, from_file=True)], in_files())
    assert back == Exchange(added=(other,), removed=(stated,), changed=(), aside=())


def test_an_equal_rule_is_taken_over_without_a_change_and_given_back() -> None:
    precedence, same = Precedence(), rule("a", 1, "n")
    plan = precedence.plan([entry(same)], in_files(same))
    assert plan == Exchange((), (), (), aside=(same,))
    precedence.note(in_files(same), plan.aside)
    assert precedence.plan([entry(same, from_file=True)], in_files()) == Exchange((), (), (), ())


def foreseen(precedence: Precedence, used: list[Entry], files: FileRules) -> list[tuple[str, str, str | None]]:
    return [(each.rule.rule_id, each.change, each.rival) for each in precedence.run_time(used).foresee(files)]


def test_what_becomes_of_rules_of_run_time_is_known_before() -> None:
    """That one is not used any more, goes on by a file, or is used again; of the others nothing is said."""
    precedence, files = Precedence(), in_files(rule("a", 1, "n"), rule("b", 2), rule("f", 4))
    used = [entry(rule("x", 1)), entry(rule("b", 2)), entry(rule("c", 3)), entry(rule("f", 4), from_file=True)]
    assert foreseen(precedence, used, files) == [("x", "displaced", "a"), ("b", "moved", "b")]
    precedence.note(files, precedence.plan(used, files).aside)
    assert foreseen(precedence, [entry(rule("c", 3))], files) == []
    assert foreseen(precedence, [], in_files(rule("b", 2))) == [("x", "restored", None)]
    precedence.note_unusable(rule("x", 1), "no room")
    assert foreseen(precedence, [], in_files(rule("b", 2))) == []


def test_a_rule_is_changed_in_its_place_by_the_name_that_its_interface_has_in_use() -> None:
    precedence, before, now = Precedence(), rule("a", 1, "n"), rule("a", 1, "m", output=2)
    precedence.note(in_files(before), ())
    used = attrs.evolve(before, input=attrs.evolve(before.input, interface="real0"))
    plan = precedence.plan([entry(used, from_file=True)], in_files(now))
    assert plan == Exchange((), (), (attrs.evolve(now, input=used.input),), ())
    assert precedence.plan([entry(used, from_file=True)], in_files(before)) == Exchange((), (), (), ())


def test_a_files_rule_is_neither_changed_nor_added_again() -> None:
    precedence = Precedence()
    precedence.note(in_files(rule("a", 1), rule("b", 2, "n")), [rule("c", 2, "m")])
    precedence.refuse_change(["c", "d"])
    with pytest.raises(RuleInFile, match=r"Rule b stands in mcr\.toml:2"):
        precedence.refuse_change(["c", "b"])
    precedence.refuse_addition(rule("e", 3, "o"))


@pytest.mark.parametrize(
    ("added", "message", "hints"),
    [
        (rule("e", 2), "b takes 239.1.1.1:2 on eth0, and stands in mcr.toml:1", ("change that file",)),
        (rule("e", 3, "n"), "b is named 'n', and stands in mcr.toml:1", ("give another name, or none", "or change")),
        (rule("b", 3), "b takes 239.1.1.1:2 on eth0, and stands in", ("give another --rule-id, or none", "or change")),
        (
            rule("e", 4),
            "c takes 239.1.1.1:4 on eth0, and is saved",
            ("it is not used so far: rule b has the same name", "remove"),
        ),
        (
            rule("c", 3),
            "c takes 239.1.1.1:4 on eth0, and is saved",
            ("it is not", "give another --rule-id", "or remove it"),
        ),
        (rule("n", 3), "b is named 'n', so no other rule can have that id, and stands in", ("give another --rule-id",)),
        (
            rule("e", 3, "c"),
            "'c' is the id of rule c (n), so no other rule can be named that, and is saved",
            ("it is",),
        ),
    ],
    ids=["input", "name", "id", "saved input", "saved id", "name as id", "saved id as name"],
)
def test_a_refusal_names_what_is_taken_and_how_to_do_without(added: Rule, message: str, hints: tuple[str, ...]) -> None:
    precedence = Precedence()
    precedence.note(in_files(rule("b", 2, "n")), [rule("c", 4, "n")])
    with pytest.raises(RuleExists) as refused:
        precedence.refuse_addition(added)
    assert refused.value.message.startswith(f"Rule already exists: {message}")
    told = refused.value.hints[: len(hints)]
    assert [each.startswith(wanted) for each, wanted in zip(told, hints, strict=True)] == [True] * len(hints)


def test_a_source_that_two_rules_share_is_named() -> None:
    first, second = (
        attrs.evolve(rule(rule_id), input=attrs.evolve(rule(rule_id).input, sources=map(IPv4Address, sources)))
        for rule_id, sources in (("a", ("198.18.0.1", "198.18.0.2")), ("b", ("198.18.0.2", "198.18.0.3")))
    )
    precedence, files = Precedence(), in_files(first)
    precedence.note(files, ())
    taken = "239.1.1.1:1 on eth0 from 198.18.0.2"
    assert files.why_aside(second) == f"rule a has the same input {taken}, and stands in mcr.toml:1"
    with pytest.raises(RuleExists, match=f"a takes {taken}, and stands in"):
        precedence.refuse_addition(second)
    with pytest.raises(RuleExists, match=r"a takes 239\.1\.1\.1:1 on eth0 from 198\.18\.0\.1 or 198\.18\.0\.2, and"):
        precedence.refuse_addition(attrs.evolve(first, rule_id="c"))


@pytest.mark.parametrize(
    ("saved", "by", "kept_by"),
    [
        (rule("a", 1, "x"), "name x", "id a"),
        (rule("c", 1, "n"), "id c", "name n"),
        (rule("a", 1), "id a", "name n"),
        (rule("a", 1, "n"), "id a", ""),
        (rule("c", 1, "x"), "name x", "id a"),
    ],
    ids=["own name", "own id", "the id alone", "nothing of its own", "both its own"],
)
def test_a_saved_rule_is_forgotten_by_what_is_its_own(saved: Rule, by: str, kept_by: str) -> None:
    precedence = Precedence()
    precedence.note(in_files(rule("a", 1, "n")), [saved])

    def selected(how: str) -> Selection:
        what, _, value = how.partition(" ")
        return Selection((value,) if what == "id" else (), (value,) if what == "name" else ())

    assert precedence.take_aside(selected(by)) == ((saved,), Selection())
    assert precedence.take_aside(selected(kept_by)) == ((), selected(kept_by))
    with pytest.raises(RuleInFile) as refused:
        precedence.refuse_change(["a"])
    assert refused.value.hints[-1].endswith(f"forget it: {precedence.forgetting(saved)}")


class Counted(str):
    """An id that counts how often it is compared."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_rules_that_give_way_are_looked_up_however_many_go_at_once() -> None:
    """Other requests wait meanwhile."""
    many = 1_000
    precedence, asked = Precedence(), tuple(Counted(number) for number in range(many))
    precedence.note(in_files(), [rule(Counted(number), 1 + number) for number in range(many)])
    Counted.compared = 0
    taken, others = precedence.take_aside(Selection(asked))
    precedence.forget(taken)
    assert (len(taken), others.rule_ids, precedence.aside) == (many, (), ())
    assert Counted.compared < 5 * many


KINDS = ("displaced", "moved", "restored")
SOME = st.builds(rule, st.sampled_from("abcd"), st.integers(1, 4), st.sampled_from([None, "n", "m"]), st.integers(1, 2))


def distinct(rules: list[Rule]) -> list[Rule]:
    """Without those that share a part of an earlier one's identity."""
    kept: list[Rule] = []
    for each in rules:
        if not in_files(*kept).rival(each):
            kept.append(each)
    return kept


@given(st.lists(SOME, max_size=4).map(distinct), st.lists(st.lists(SOME, max_size=4).map(distinct), max_size=5))
def test_used_are_those_of_the_files_and_the_others_that_have_no_rival(
    added: list[Rule], readings: list[list[Rule]]
) -> None:
    catalog, precedence = Catalog(), Precedence()
    if added:
        catalog.note(catalog.plan_addition(added))
    for stated in readings:
        files, before = in_files(*stated), {each.rule for each in catalog}
        plan = precedence.plan(catalog, files)
        foretold = precedence.run_time(catalog).foresee(files)
        told = {kind: {each.rule for each in foretold if each.change == kind} for kind in KINDS}
        of_run_time = {each.rule for each in catalog if not each.from_file}
        touched = {*plan.added, *plan.removed}
        change = catalog.plan_exchange(plan.added, plan.removed, plan.changed)
        if (change.added, change.removed, change.changed) != ((), (), ()):
            catalog.note(change)
        precedence.note(files, plan.aside)
        catalog.mark(marked(catalog, files))
        now = {each.rule for each in catalog}
        used_of_run_time = {each.rule for each in catalog if not each.from_file}
        assert told["displaced"] | told["moved"] == of_run_time - used_of_run_time
        assert told["moved"] == of_run_time & {*stated}
        assert told["restored"] == used_of_run_time - of_run_time
        assert now == {*stated, *(each for each in added if not files.rival(each))}
        assert {each.rule for each in catalog if each.from_file} == {*stated}
        assert touched.isdisjoint(before & now)
