"""Structural tags, in both of vLLM's forms."""

import pytest

from octavo.errors import GrammarError
from octavo.structured.schema import PLAIN
from octavo.structured.tags import structural_tag

NUMBER = {"type": "integer", "minimum": 0, "maximum": 99}
OLD = {
    "type": "structural_tag",
    "structures": [
        {"begin": "<f=a>", "schema": NUMBER, "end": "</f>"},
        {"begin": "<f=b>", "schema": {"type": "null"}, "end": "</f>"},
    ],
    "triggers": ["<f="],
}
A = {"type": "tag", "begin": "<a>", "content": {"type": "json_schema", "json_schema": NUMBER}, "end": "</a>"}
FREE = {"type": "tag", "begin": "<t>", "content": {"type": "any_text"}, "end": "</t>"}


def new(**fields):
    return {"type": "structural_tag", "format": fields}


def triggered(**fields):
    return new(type="triggered_tags", triggers=["<a", "<t"], tags=[A, FREE], **fields)


def separated(**fields):
    return new(type="tags_with_separator", tags=[A], separator=", ", **fields)


@pytest.mark.parametrize(
    ("tag", "good", "bad"),
    [
        (OLD, ["", "text", "a<f=a>12</f>b<f=b>null</f>", "<g=a>"], ["<f=a>x</f>", "<f=c>1</f>", "<f=b>1</f>"]),
        (triggered(), ["", "x<a>1</a>y<t>free</t>z"], ["<a>x</a>", "<ab"]),
        (triggered(at_least_one=True), ["<a>1</a>", "x<t></t>"], ["", "text"]),
        (triggered(stop_after_first=True), ["text", "x<a>1</a>"], ["x<a>1</a>y"]),
        (triggered(stop_after_first=True, at_least_one=True), ["x<a>1</a>"], ["x<a>1</a>y", "text"]),
        (separated(), ["", "<a>1</a>", "<a>1</a>, <a>2</a>"], ["<a>1</a>,<a>2</a>", "text"]),
        (separated(at_least_one=True), ["<a>1</a>, <a>2</a>"], [""]),
        (separated(stop_after_first=True), ["", "<a>1</a>"], ["<a>1</a>, <a>2</a>"]),
        (
            new(type="sequence", elements=[FREE, {"type": "const_string", "value": "!"}, A, {"type": "any_text"}]),
            ["<t>think</t>!<a>5</a>", "<t></t>!<a>5</a> and text"],
            ["<t>think</t><a>5</a>", "!<a>5</a>"],
        ),
        (
            new(
                type="or",
                elements=[
                    {"type": "regex", "pattern": "[xy]{2}"},
                    {"type": "grammar", "grammar": 'root ::= "g" [0-9]'},
                    {"type": "json_schema", "json_schema": True},
                ],
            ),
            ["xy", "g7", '{"a": 1}'],
            ["x", "g", "{a}"],
        ),
    ],
)
def test_what_a_tag_accepts(accepts, tag, good, bad):
    grammar = structural_tag(tag, "tag", PLAIN, {})
    for text in good:
        assert accepts(grammar, text), text
    for text in bad:
        assert not accepts(grammar, text), text


@pytest.mark.parametrize(
    ("tag", "path", "reason"),
    [
        (5, "tag", "an object"),
        ({**OLD, "type": "tags"}, "tag.type", "structural_tag"),
        ({**OLD, "more": 1}, "tag.more", "not known"),
        ({**OLD, "structures": []}, "tag.structures", "1 to 1024"),
        ({**OLD, "triggers": ["<g"]}, "tag.structures[0].begin", "one of the triggers"),
        ({**OLD, "triggers": [5]}, "tag.triggers[0]", "a text"),
        ({**OLD, "format": A}, "tag.structures", "not known"),
        (
            {"structures": [{"begin": "<", "schema": {"not": {}}}], "triggers": ["<"]},
            "tag.structures[0].schema.not",
            "not supported",
        ),
        (new(), "tag.format.type", "one of any_text"),
        (new(type="qwen_xml_parameter"), "tag.format.type", "one of any_text"),
        (new(type="sequence", elements=[{"type": "any_text"}, A]), "tag.format.elements[0]", "free text"),
        (new(type="tag", begin="<", end=""), "tag.format.content", "an object"),
        (new(type="const_string", value=5), "tag.format.value", "a text"),
        (triggered(at_least_one="yes"), "tag.format.at_least_one", "true or false"),
    ],
)
def test_a_bad_tag_is_refused_with_its_path(tag, path, reason):
    with pytest.raises(GrammarError, match=reason) as error:
        structural_tag(tag, "tag", PLAIN, {})
    assert error.value.name == path


def test_formats_in_each_other_have_a_limit():
    inner = A
    for _ in range(20):
        inner = {"type": "sequence", "elements": [inner]}
    with pytest.raises(GrammarError, match="deeper than 16"):
        structural_tag(new(**inner), "tag", PLAIN, {})
