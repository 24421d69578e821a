"""Every keyword of JSON Schema, draft 2020-12, is honoured or refused with its path."""

import json
import os
from pathlib import Path

import jsonschema
import pytest
from jsonschema_specifications import REGISTRY

from octavo.errors import GrammarError
from octavo.structured.keywords import ANNOTATIONS, KEYWORDS, MAX_NODES, REFUSED
from octavo.structured.schema import JsonStyle, check_schema, json_object, json_schema

CLOSED = {"additionalProperties": False}
A_TEXT = {"type": "string", "pattern": "^[a-z]*$"}
# (schema, texts that fit, texts that don't)
HONOURED = {
    "type": [
        ({"type": "integer"}, ["0", "-7", "123"], ["1.0", "1e2", "01", "true", '"1"', "+1", "-01"]),
        ({"type": "number"}, ["0", "-7.5", "1e5"], ["1.", ".5", "NaN", "null"]),
        ({"type": ["null", "boolean"]}, ["null", "true", "false"], ["0", '"null"', "True"]),
        ({"type": "string"}, ['""', '"a\\nb\\"é"'], ['"a', "a", '"\n"', '"\\x"', '"\\u0061"']),
        ({"type": "object"}, ["{}", '{"a": [1, {}]}'], ["[]", '{"a":1}', "{a: 1}", '{"a": 1,}']),
        ({"type": "array"}, ["[]", '[1, "a"]'], ["{}", "[1,2]", "[1, ]"]),
    ],
    "enum": [({"enum": [1, "a", None, {"b": [2]}]}, ["1", '"a"', "null", '{"b": [2]}'], ["2", '"b"', "{}"])],
    "const": [({"const": {"a": [1, True]}}, ['{"a": [1, true]}'], ['{"a": [1]}', "1"])],
    "properties": [
        (
            {"properties": {"a": {"type": "integer"}}, "type": "object"},
            ["{}", '{"a": 1}', '{"a": 1, "b": "c"}'],
            ['{"a": "1"}', '{"\\u0061": "x"}'],
        ),
    ],
    "required": [
        (
            {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["b"], **CLOSED},
            ['{"b": 1}', '{"a": 1, "b": 2}'],
            ["{}", '{"a": 1}'],
        ),
        ({"type": "object", "required": ["a"]}, ['{"a": 1}'], ["{}", '{"b": 1}']),
    ],
    "additionalProperties": [
        ({"type": "object", "properties": {"a": {}}, **CLOSED}, ["{}", '{"a": 1}'], ['{"b": 1}', '{"a": 1, "b": 1}']),
        ({"type": "object", "additionalProperties": {"type": "null"}}, ['{"x": null}'], ['{"x": 1}']),
    ],
    "patternProperties": [
        (
            {"type": "object", "patternProperties": {"^x": {"type": "integer"}}, **CLOSED},
            ['{"xy": 1}', "{}"],
            ['{"xy": "a"}', '{"y": 1}'],
        ),
        (
            {"type": "object", "patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": A_TEXT},
            ['{"y": "a"}'],
            ['{"xa": "a"}'],
        ),
    ],
    "minProperties": [({"type": "object", "minProperties": 1}, ['{"a": 1}'], ["{}"])],
    "maxProperties": [({"type": "object", "maxProperties": 1}, ["{}", '{"a": 1}'], ['{"a": 1, "b": 2}'])],
    "items": [({"type": "array", "items": {"type": "integer"}}, ["[]", "[1, 2]"], ['["a"]', '[1, "a"]'])],
    "prefixItems": [
        (
            {"type": "array", "prefixItems": [{"type": "integer"}, A_TEXT], "items": False},
            ["[]", '[1, "a"]'],
            ['["a"]', '[1, "a", 2]'],
        ),
    ],
    "minItems": [({"type": "array", "minItems": 2}, ["[1, 2]", "[1, 2, 3]"], ["[]", "[1]"])],
    "maxItems": [({"type": "array", "maxItems": 2.0}, ["[]", "[1, 2]"], ["[1, 2, 3]"])],
    "minLength": [({"type": "string", "minLength": 2}, ['"ab"', '"😀😀"'], ['"a"', '"😀"', '"\\n"'])],
    "maxLength": [({"type": "string", "maxLength": 2}, ['"ab"', '""', '"😀😀"', '"\\n\\n"'], ['"abc"', '"\\n\\n\\n"'])],
    "pattern": [
        ({"type": "string", "pattern": "b+c"}, ['"abbcd"', '"bc"'], ['"ab"', '"c"']),
        ({"type": "string", "pattern": '^"[^"]\\\\$'}, ['"\\"a\\\\"'], ['"a"', '"\\"\\"\\\\"']),
        ({"type": "string", "pattern": r"^[^\"\\]*$"}, ['"a"', '"\\n"'], ['"\\""', '"\\\\"']),
        ({"type": "string", "pattern": r"^[\x00-\x1f]$"}, ['"\\n"'], ['"\\""', '"\\\\"', '"a"']),
        ({"type": "string", "pattern": "^\\S$"}, ['"a"'], ['" "', '"\ufeff"']),
    ],
    "format": [
        (
            {"type": "string", "format": "date"},
            ['"2024-02-29"', '"1999-12-31"'],
            ['"2023-02-29"', '"1900-02-29"', '"2024-04-31"', '"24-01-01"'],
        ),
        (
            {"type": "string", "format": "time"},
            ['"23:59:59Z"', '"01:02:03.5+01:30"'],
            ['"24:00:00Z"', '"23:59:60+01:00"', '"01:02:03"'],
        ),
        (
            {"type": "string", "format": "date-time", "pattern": "^2"},
            ['"2024-02-29T01:02:03Z"'],
            ['"2023-02-29T01:02:03Z"', '"1999-01-01T01:02:03Z"'],
        ),
        ({"type": "string", "format": "uuid"}, ['"123e4567-e89b-12d3-a456-426614174000"'], ['"123e4567"', '"x"']),
        ({"type": "string", "format": "ipv4"}, ['"127.0.0.1"'], ['"256.0.0.1"', '"1.2.3"']),
    ],
    "minimum": [({"type": "integer", "minimum": -3}, ["-3", "0", "12"], ["-4", "-30"])],
    "maximum": [({"type": "number", "maximum": 2.5}, ["2.5", "-10", "0"], ["2.6", "3", "1e9"])],
    "exclusiveMinimum": [({"type": "integer", "exclusiveMinimum": 3}, ["4", "10"], ["3", "-5"])],
    "exclusiveMaximum": [({"type": "number", "exclusiveMaximum": 3}, ["2.9", "-3"], ["3", "3.0", "4"])],
    "multipleOf": [({"type": "integer", "multipleOf": 7}, ["0", "14", "-21"], ["1", "15"])],
    "anyOf": [({"anyOf": [{"type": "integer"}, {"const": "a"}]}, ["1", '"a"'], ['"b"', "null"])],
    "oneOf": [
        ({"oneOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]}, ["1", '"a"'], ['"ab"', "null"]),
        (
            {
                "$defs": {
                    name: {"type": "object", "properties": {"kind": {"const": name}}, "required": ["kind"], **CLOSED}
                    for name in "ab"
                },
                "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
                "discriminator": {"propertyName": "kind"},
            },
            ['{"kind": "a"}', '{"kind": "b"}'],
            ['{"kind": "c"}', "{}"],
        ),
    ],
    "allOf": [({"allOf": [{"type": "integer", "minimum": 2}, {"maximum": 4}]}, ["2", "4"], ["1", "5", '"a"'])],
    "$ref": [({"type": "array", "items": {"$ref": "#"}, "maxItems": 2}, ["[]", "[[], [[]]]"], ["[1]", "[[], [], []]"])],
    "$defs": [({"$defs": {"a": {"type": "null"}}, "$ref": "#/$defs/a"}, ["null"], ["1"])],
    "definitions": [({"definitions": {"a": {"type": "null"}}, "$ref": "#/definitions/a"}, ["null"], ["1"])],
    "$anchor": [({"$defs": {"a": {"$anchor": "here", "type": "null"}}, "$ref": "#here"}, ["null"], ["1"])],
    "$id": [({"$id": "http://a.b/c", "$defs": {"d": {"$id": "e", "type": "null"}}, "$ref": "e"}, ["null"], ["1"])],
}
CASES = [pytest.param(*case, id=f"{name}-{i}") for name, cases in HONOURED.items() for i, case in enumerate(cases)]


@pytest.mark.parametrize(("schema", "good", "bad"), CASES)
def test_a_keyword_is_honoured(accepts, schema, good, bad):
    grammar = json_schema(schema, "test")
    for text in good:
        jsonschema.validate(json.loads(text), schema)
        assert accepts(grammar, text), text
    for text in bad:
        assert not accepts(grammar, text), text


def test_a_class_of_control_characters_has_no_quotation_mark(accepts):
    grammar = json_schema({"type": "string", "pattern": r"^(\p{Cc}|[]a[b]])$"}, "test")
    assert [accepts(grammar, json.dumps(text)) for text in '\nab]"\\c'] == [True] * 4 + [False] * 3


def test_every_keyword_is_in_a_table():
    assert set(HONOURED) == set(KEYWORDS)
    known = {*KEYWORDS, *REFUSED, *ANNOTATIONS}
    for vocabulary in jsonschema.Draft202012Validator.META_SCHEMA["allOf"]:
        uri = f"https://json-schema.org/draft/2020-12/{vocabulary['$ref']}"
        assert set(REGISTRY.contents(uri)["properties"]) <= known


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_keyword_is_refused_with_its_path(name):
    with pytest.raises(GrammarError, match="is not supported") as error:
        check_schema({"properties": {"a": {"items": {name: {}}}}}, "tools[0].parameters")
    assert error.value.name == f"tools[0].parameters.properties.a.items.{name}"


@pytest.mark.parametrize("name", sorted(ANNOTATIONS))
def test_an_annotation_changes_nothing(name):
    assert check_schema({"type": "null", name: "said"}, "test") == {"type": "null"}


BAD = [
    ({"typ": "string"}, ".typ", "did you mean type"),
    ({"anyOf": [{}, {"type": "text"}]}, ".anyOf[1].type", "one of string"),
    ({"type": []}, ".type", "one of string"),
    ({"type": {}}, ".type", "one of string"),
    ({"properties": []}, ".properties", "an object of schemas"),
    ({"properties": {"a": 5}}, ".properties.a", "a schema"),
    ({"items": [{}]}, ".items", "a schema"),
    ({"anyOf": []}, ".anyOf", "at least one"),
    ({"enum": []}, ".enum", "at least one"),
    ({"enum": "a"}, ".enum", "at least one"),
    ({"enum": ["a", "b\x00c"]}, ".enum[1]", "control characters"),
    ({"const": {"\x01": 1}}, ".const", "control characters"),
    ({"properties": {"\x1f": {}}}, ".properties", "control characters"),
    ({"required": ["a", 5]}, ".required", "a list of texts"),
    ({"minLength": -1}, ".minLength", "at least 0"),
    ({"maxItems": 1.5}, ".maxItems", "an integer"),
    ({"maxItems": True}, ".maxItems", "an integer"),
    ({"maxItems": 10**9}, ".maxItems", "at most 1000000"),
    ({"minimum": "1"}, ".minimum", "a number"),
    ({"exclusiveMinimum": True}, ".exclusiveMinimum", "a number"),
    ({"multipleOf": 0}, ".multipleOf", "above 0"),
    ({"multipleOf": 999983}, ".multipleOf", "at most 10000"),
    ({"multipleOf": 1e-9}, ".multipleOf", "at most 10000"),
    ({"pattern": 5}, ".pattern", "a text"),
    ({"pattern": r"a\x00"}, ".pattern", "NUL"),
    ({"patternProperties": {"\x00": {}}}, ".patternProperties", "control characters"),
    ({"pattern": "a" * 5000}, ".pattern", "at most 4096"),
    ({"format": "phone"}, ".format", "one of date"),
    ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, ".$ref", "nothing is fetched"),
    ({"$ref": "file:///etc/passwd"}, ".$ref", "nothing is fetched"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, ".oneOf", "different types"),
    (
        {"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}},
        ".oneOf",
        "diff",
    ),
    ({"minProperties": 2}, ".minProperties", "additionalProperties=false"),
    ({"uniqueItems": True}, ".uniqueItems", "compared"),
    (False, "", "nothing fits"),
    (5, "", "a schema"),
    ({"const": float("nan")}, "", "no JSON schema"),
    ({"const": {1, 2}}, "", "no JSON schema"),
    ({"enum": ["x" * 2_000_000]}, "", "characters; a schema may have"),
    ({"anyOf": [{}] * (MAX_NODES + 1)}, f".anyOf[{MAX_NODES - 1}]", "more than 20000"),
]


@pytest.mark.parametrize(("schema", "path", "reason"), BAD)
def test_a_bad_schema_is_refused_with_its_path(schema, path, reason):
    with pytest.raises(GrammarError, match=reason) as error:
        check_schema(schema, "S")
    assert error.value.name == f"S{path}"
    assert len(str(error.value)) < 800


@pytest.mark.parametrize("depth", [65, 10_000])
def test_a_deep_schema_is_refused(depth):
    schema = {}
    for _ in range(depth):
        schema = {"items": schema}
    with pytest.raises(GrammarError, match=r"deep|recursion"):
        check_schema(schema, "S")


def test_options_change_white_space_and_open_objects(accepts):
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}}
    plain, compact = json_schema(schema, "S"), json_schema(schema, "S", JsonStyle(compact=True))
    loose = json_schema(schema, "S", JsonStyle(whitespace_pattern=r"[ \n]*"))
    closed = json_schema(schema, "S", JsonStyle(no_additional_properties=True))
    texts = ['{"a": [1, 2]}', '{"a":[1,2]}', '{\n  "a" : [1 ,2]}', '{"b": 1}']
    assert [accepts(plain, text) for text in texts] == [True, False, False, True]
    assert [accepts(compact, text) for text in texts] == [False, True, False, False]
    assert [accepts(loose, text) for text in texts] == [True, True, True, True]
    assert [accepts(closed, text) for text in texts] == [True, False, False, False]
    assert accepts(json_object(), '{"b": 1}')
    assert not accepts(json_object(), "[1]")


def suite():
    """JSON-Schema-Test-Suite's cases of draft 2020-12, from the folder that OCTAVO_TEST_JSON_SCHEMAS names."""
    folder = os.environ.get("OCTAVO_TEST_JSON_SCHEMAS")
    return sorted(Path(folder).glob("**/*.json")) if folder else []


@pytest.mark.parametrize("path", suite(), ids=lambda path: path.stem)
def test_nothing_that_the_suite_calls_invalid_is_accepted(accepts, path):
    for group in json.loads(path.read_text(encoding="utf-8")):
        try:
            grammar = json_schema(group["schema"], "test")
            accepts(grammar, "null")
        except GrammarError:
            continue
        for case in group["tests"]:
            text = json.dumps(case["data"], ensure_ascii=False)
            if not case["valid"] and not any("\ud800" <= char <= "\udfff" for char in text):
                assert not accepts(grammar, text), (group["description"], case["description"])
