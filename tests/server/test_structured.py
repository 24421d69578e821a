"""Structured output over HTTP: OpenAI's client, vLLM's fields, and what is refused while others are served."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import jsonschema
import pytest
from pydantic import BaseModel

from .conftest import MODEL
from .test_bad_input import check_error

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "maximum": 99, "minimum": 0},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
MESSAGES = [{"role": "user", "content": "Name a person, as JSON."}]


class Owner(BaseModel):
    years: Literal[1, 2, 3]
    lives: Literal["here", "there"]


class Pet(BaseModel):
    """What OpenAI's client makes a schema of."""

    kind: Literal["cat", "dog"]
    owner: Owner | None


def chat(ai, **fields):
    return ai.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, "seed": 1, "max_tokens": 200, **fields})


def schema_format(schema=PERSON):
    return {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": schema}}


def test_a_streamed_answer_is_the_whole_one_and_fits(ai):
    answer = chat(ai, response_format=schema_format(), n=3)
    streamed = ["", "", ""]
    for chunk in chat(ai, response_format=schema_format(), n=3, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    for choice, text in zip(answer.choices, streamed, strict=True):
        jsonschema.validate(json.loads(choice.message.content), PERSON)
        assert (choice.finish_reason, choice.message.content) == ("stop", text)


def test_the_client_parses_its_own_models(ai):
    answer = ai.chat.completions.parse(
        model=MODEL, messages=MESSAGES, response_format=Pet, max_tokens=100, temperature=0
    )
    assert isinstance(answer.choices[0].message.parsed, Pet)


@pytest.mark.parametrize(
    "form", [{"type": "json_schema", "schema": PERSON}, {"type": "json_schema", "json_schema": PERSON}]
)
def test_bare_schemas_are_read(ai, form):
    jsonschema.validate(json.loads(chat(ai, response_format=form).choices[0].message.content), PERSON)


def test_a_tag_has_its_structure(ai):
    content = {"type": "json_schema", "json_schema": PERSON}
    tag = {"type": "structural_tag", "format": {"type": "tag", "begin": "<p>", "content": content, "end": "</p>"}}
    text = chat(ai, response_format=tag).choices[0].message.content
    jsonschema.validate(json.loads(text.removeprefix("<p>").removesuffix("</p>")), PERSON)
    assert (text[:3], text[-4:]) == ("<p>", "</p>")


@pytest.mark.parametrize(
    ("field", "texts"),
    [
        ({"guided_choice": ["yes", "no"]}, {"yes", "no"}),
        ({"guided_regex": "[xy]z"}, {"xz", "yz"}),
        ({"guided_grammar": 'root ::= "a" | "b"'}, {"a", "b"}),
        ({"guided_json": {"const": [1]}, "guided_whitespace_pattern": "", "guided_decoding_backend": "any"}, {"[1]"}),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, {"yes", "no"}),
        ({"structured_outputs": {"json": '{"const": {"a": 1}}', "disable_any_whitespace": True}}, {'{"a":1}'}),
    ],
)
def test_the_fields_of_vllm(ai, field, texts):
    assert chat(ai, extra_body=field).choices[0].message.content in texts
    completion = ai.completions.create(model=MODEL, prompt=["Once", "Twice"], extra_body=field)
    assert {choice.text for choice in completion.choices} <= texts


def test_logprobs_of_structured_output_are_those_of_all_tokens(ai):
    plain = chat(ai, response_format=schema_format())
    told = chat(ai, response_format=schema_format(), logprobs=True, top_logprobs=2)
    assert told.choices[0].message.content == plain.choices[0].message.content
    assert told.usage == plain.usage
    assert len(told.choices[0].logprobs.content) == told.usage.completion_tokens


def bad_schemas():
    nested = {"type": "string"}
    for _ in range(10_000):
        nested = {"items": nested}
    tree = {"type": "string"}
    for _ in range(12):
        tree = {"anyOf": [{"properties": {"a": tree}}, {"properties": {"b": tree}}]}
    return {
        "slow": {"type": "integer", "multipleOf": 9973, "allOf": [{"multipleOf": 9967}]},
        "many items": {"type": "array", "maxItems": 10**12},
        "large": {"enum": ["x" * 2_000_000]},
        "deep": nested,
        "tree": tree,
        "remote": {"$ref": "http://127.0.0.1/schema.json"},
    }


@pytest.mark.parametrize("name", sorted(bad_schemas()))
def test_a_hostile_schema_is_refused_while_others_are_answered(server, http, ai, name):
    def stream(seed):
        chunks = chat(ai, seed=seed, stream=True, max_tokens=40, temperature=1)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    def hostile(_):
        body = json.dumps(bad_schemas()[name]) if name != "deep" else '{"items":' * 10_000 + "{}" + "}" * 10_000
        form = f'{{"type":"json_schema","json_schema":{{"name":"a","schema":{body}}}}}'
        fields = f'"model":"{MODEL}","messages":{json.dumps(MESSAGES)},"response_format":{form}'
        return http.post("/v1/chat/completions", content=f"{{{fields}}}", headers={"content-type": "application/json"})

    expected = [stream(seed) for seed in range(4)]
    with ThreadPoolExecutor(5) as pool:
        answer = pool.submit(hostile, None)
        assert list(pool.map(stream, range(4))) == expected
    check_error(answer.result(), 400)
