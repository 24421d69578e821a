"""Grammars as values, which are composed like texts.

A grammar is an expression of llguidance's variant of Lark and the rules that it needs. The names of rules are hashes of
what they say, so that those of different grammars can't clash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

_ANY = r"/(.|\n)*/"
SpecialTokens = Mapping[str, int]  # ids of special tokens by their texts
NONE: SpecialTokens = {}


@dataclass(frozen=True, slots=True)
class Grammar:
    """What a text may be: an expression, and its rules as "name: expression"."""

    expression: str
    rules: tuple[str, ...] = ()

    @property
    def lark(self) -> str:
        """The whole, as llguidance takes it."""
        return "\n".join(["%llguidance {}", f"start: {self.expression}", *self.rules, ""])


def literal(text: str, special: SpecialTokens = NONE) -> Grammar:
    """Exactly this text. Where it has the text of one of the `special` tokens, it is that token."""
    return Grammar(" ".join(_pieces(text, special)) or '""')


def any_text() -> Grammar:
    """Any text without special tokens, to the end."""
    return _named("text", _ANY)


def until(mark: str, special: SpecialTokens = NONE) -> Grammar:
    """Any text up to the first `mark`, and that. It may begin with `special` tokens, and has none after text."""
    if not any(piece in special for piece in _split(mark, special)):
        return _named("until", f"{_ANY} {_quoted(mark)}", "[lazy]")
    if not mark.startswith(tuple(special)):
        raise ValueError(f"the mark {mark!r} has text before a special token")
    return sequence(any_text(), literal(mark, special))


def sequence(*parts: Grammar) -> Grammar:
    """One after the other."""
    return _joined(" ", parts)


def either(*parts: Grammar) -> Grammar:
    """One of them."""
    return _joined(" | ", parts)


def repeated(part: Grammar, least: int = 0, most: int | None = None) -> Grammar:
    """`least` times or more, up to `most` times."""
    count = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most))
    if count is None:
        count = f"{{{least},{'' if most is None else most}}}"
    return Grammar(f"({part.expression}){count}", part.rules)


def regex(pattern: str) -> Grammar:
    """A text that the whole of the pattern matches, in the syntax of Rust's crate regex."""
    return _named("regex", f"/{_escaped_regex(pattern)}/")


def choice(texts: Sequence[str]) -> Grammar:
    """One of these texts."""
    return either(*map(literal, texts))


def nested(lark: str) -> Grammar:
    """A grammar of its own, in llguidance's Lark, whose rules are not seen outside."""
    return _named("nested", f"%lark {{\n{lark}\n}}")


def of_json_schema(schema: object) -> Grammar:
    """JSON of a schema as llguidance takes it."""
    return _named("json", f"%json {json.dumps(schema)}")


def _split(text: str, special: SpecialTokens) -> Iterator[str]:
    """Special tokens of a text, the longest where several begin, and what is between them."""
    if not special:
        yield text
        return
    longest_first = sorted(special, key=len, reverse=True)
    yield from re.split(f"({'|'.join(map(re.escape, longest_first))})", text)


def _pieces(text: str, special: SpecialTokens) -> Iterator[str]:
    for piece in _split(text, special):
        if piece in special:
            yield f"<[{special[piece]}]>"
        elif piece:
            yield _quoted(piece)


def _quoted(text: str) -> str:
    return json.dumps(text)


def _escaped_regex(pattern: str) -> str:
    """The pattern between the slashes of Lark."""
    pattern = re.sub(r"(\\.)|/", lambda found: found[1] or r"\/", pattern, flags=re.S)
    return pattern.replace("\n", r"\n").replace("\r", r"\r")


def _named(kind: str, body: str, attributes: str = "") -> Grammar:
    """A rule of its own, and its name for an expression."""
    digest = sha256(body.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    name = f"{kind}_{digest.upper() if kind.isupper() else digest}"  # capitals say that a rule is of the lexer
    return Grammar(name, (f"{name}{attributes}: {body}",))


def _joined(between: str, parts: Sequence[Grammar]) -> Grammar:
    rules = tuple(dict.fromkeys(rule for part in parts for rule in part.rules))
    return Grammar(f"({between.join(part.expression for part in parts)})", rules)


def rule(part: Grammar) -> Grammar:
    """The same by a name, for what is needed several times."""
    named = _named("rule", part.expression)
    return Grammar(named.expression, (*part.rules, *named.rules))


def text(without: Sequence[str] = (), unlike: str | None = None) -> Grammar:
    """Any text in which none of some texts occurs, and which is not of the pattern `unlike`, to the end."""
    return _named("TEXT", " & ".join([_ANY, *_restrictions(without, unlike)]))


def text_before(
    mark: str, special: SpecialTokens = NONE, without: Sequence[str] = (), unlike: str | None = None
) -> Grammar:
    """Such a text up to the first `mark`, and that; of a mark with special tokens, up to what it has before those."""
    plain = next(_split(mark, special))
    before = text([*without, mark, plain] if plain else [*without, mark], unlike)
    if not plain:
        return sequence(before, literal(mark, special))
    head = _named("before", f"{before.expression} {_quoted(plain)}", "[lazy]")
    return sequence(Grammar(head.expression, (*before.rules, *head.rules)), literal(mark[len(plain) :], special))


def _restrictions(without: Sequence[str], unlike: str | None) -> Iterator[str]:
    if without:  # one pattern of all of them: the lexer's work grows with each that is excluded by itself
        yield f"~/(.|\\n)*({_escaped_regex('|'.join(map(regex_of, sorted(set(without)))))})(.|\\n)*/"
    if unlike is not None:
        yield f"~/{_escaped_regex(unlike)}/"


def regex_of(text: str) -> str:
    """A pattern of exactly this text, in the syntax of Rust's crate regex."""
    return re.sub(r"[\\.+*?()|\[\]{}^$]", r"\\\g<0>", text)
