"""Grammars as values: composed, and asked which texts they accept."""

import pytest

from octavo.errors import GrammarError
from octavo.structured.grammar import (
    any_text,
    choice,
    either,
    literal,
    nested,
    regex,
    repeated,
    sequence,
    until,
)
from octavo.structured.schema import json_schema

NUMBER = json_schema({"type": "integer", "minimum": 0, "maximum": 99}, "test")
CALL = sequence(until("<call>"), either(literal("f("), literal("g(")), NUMBER, literal(")</call>"))
THOUGHT = sequence(until("</think>"), NUMBER)


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        (literal('a "b"\n\\ é😀'), ['a "b"\n\\ é😀'], ["", "a", 'a "b"\n\\ é😀x']),
        (literal(""), [""], ["a"]),
        (any_text(), ["", "a\nb", "{<call>"], []),
        (regex(r"a/b\d{2}|\n"), ["a/b12", "\n"], ["a/b1", "n", "a\\/b12"]),
        (regex("^[^/\n]+$"), ["ab"], ["a/b", "a\nb", ""]),
        (choice(["a", "ab", "b"]), ["a", "ab", "b"], ["", "abb"]),
        (sequence(literal("a"), NUMBER, literal("b")), ["a12b", "a0b"], ["ab", "a100b", "a01b"]),
        (sequence(either(literal("a"), literal("b")), literal("c")), ["ac", "bc"], ["a", "abc", "c"]),
        (sequence(literal("x"), repeated(literal("a"), 2, 3)), ["xaa", "xaaa"], ["xa", "xaaaa", "x"]),
        (repeated(either(literal("a"), literal("b"))), ["", "abba"], ["c"]),
        (repeated(literal("a"), 1), ["a", "aa"], [""]),
        (repeated(literal("a"), 0, 1), ["a", ""], ["aa"]),
        (repeated(literal("a"), 0, 4), ["a", "", "aaaa"], ["aaaaa"]),
        (nested('start: "a" rest\nrest: "b" | "c"'), ["ab", "ac"], ["a", "b"]),
        (
            sequence(nested("start: x\nx: /[a]/"), nested("start: x\nx: /[b]/"), nested("start: x\nx: /[a]/")),
            ["aba"],
            ["aab", "ab"],
        ),
        (THOUGHT, ["</think>5", "so </think 1</think>42"], ["5", "</think>x", "a</think></think>5"]),
        (
            sequence(repeated(CALL), any_text()),
            ["", "text", "a<call>f(1)</call>", "<call>g(22)</call> b <call>f(0)</call>!"],
            ["<call>h(1)</call>", "a<call>f(x)", "<call>f(1)"],
        ),
    ],
)
def test_what_a_grammar_accepts(accepts, grammar, good, bad):
    for text in good:
        assert accepts(grammar, text), text
    for text in bad:
        assert not accepts(grammar, text), text


def test_special_tokens_are_tokens_by_name(accepts, grammars, tokenizer):
    special = grammars.special_tokens
    name = next(iter(special))
    assert tokenizer.token_id(name) == special[name]
    mark = until(f"{name}json\n", special)
    grammar = sequence(repeated(sequence(mark, NUMBER)), any_text())
    assert accepts(grammar, f"some text{name}json\n12")
    assert accepts(grammar, "some text")
    assert not accepts(grammar, f"some text{name}text")
    assert not accepts(any_text(), f"a{name}")
    assert accepts(sequence(literal(f"a{name}b{name}", special), NUMBER), f"a{name}b{name}7")
    with pytest.raises(ValueError, match="has text before"):
        until(f"\n{name}", special)


def test_equal_parts_are_one_rule():
    assert sequence(CALL, CALL).rules == CALL.rules
    assert len(set(sequence(CALL, THOUGHT).rules)) == len(sequence(CALL, THOUGHT).rules) == 3


def test_an_end_of_text_can_not_be_named(grammars):
    assert not {"<|end|>"} & grammars.special_tokens.keys()


def test_compiled_grammars_are_kept_and_the_oldest_go(grammars, monkeypatch):
    monkeypatch.setattr("octavo.structured.compiler.MAX_KEPT", 2)
    first, second, third = (literal(f"kept {i}") for i in range(3))
    one = grammars.compile(first, "a").matcher
    assert grammars.compile(first, "b").matcher is one
    grammars.compile(second, "a")
    assert grammars.compile(first, "a").matcher is one, "the newest that was asked for stays"
    grammars.compile(third, "a")
    assert grammars.compile(first, "a").matcher is one
    grammars.compile(second, "a")
    grammars.compile(third, "a")
    assert grammars.compile(first, "a").matcher is not one


def test_too_long_a_grammar_is_refused(grammars):
    with pytest.raises(GrammarError, match="has 9000"):
        grammars.compile(literal("a" * 9_000_000), "guided_choice")


def test_what_takes_too_long_is_killed_and_the_next_goes_on(grammars, accepts, monkeypatch):
    monkeypatch.setattr("octavo.structured.rehearsal.SECONDS", 0.5)
    slow = json_schema({"type": "integer", "multipleOf": 9973, "allOf": [{"multipleOf": 9967}]}, "test")
    for _ in range(2):  # the second time it is known
        with pytest.raises(GrammarError, match=r"guided_json: can't be compiled: .* more than 0.5 s"):
            grammars.compile(slow, "guided_json")
    monkeypatch.undo()
    assert accepts(regex("after[0-9]"), "after1")


def test_a_process_that_dies_is_begun_again(grammars, accepts):
    grammars.compile(literal("before"), "test")
    grammars._rehearsal._process.kill()
    with pytest.raises(GrammarError, match="memory"):
        grammars.compile(literal("while it is dead"), "test")
    assert accepts(literal("after it"), "after it")
