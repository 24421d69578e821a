"""No text of a random model, whatever the temperature, breaks its schema: a quick part of benchmarks/structured.py."""

import json

import jsonschema
import pytest

from octavo import SamplingParams, StructuredOutputsParams

from .schemas import random_schema


@pytest.fixture
def executor():
    return "native"


def test_no_text_breaks_its_schema(llm):
    schemas = [random_schema(seed) for seed in range(60)]
    params = [
        SamplingParams(
            temperature=(0, 0.7, 1, 2)[seed % 4],
            seed=seed,
            max_tokens=150,
            structured_outputs=StructuredOutputsParams(json=schema),
        )
        for seed, schema in enumerate(schemas * 2)
    ]
    outputs = llm.generate(["Ask not"] * len(params), params, use_tqdm=False)
    ends = [output.outputs[0].finish_reason for output in outputs]
    assert set(ends) <= {"stop", "length"}, [output.error for output in outputs if output.error]
    assert ends.count("stop") > 100
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    for output, schema in zip(outputs, schemas * 2, strict=True):
        text = output.outputs[0].text
        if output.outputs[0].finish_reason == "stop":
            jsonschema.Draft202012Validator(schema, format_checker=checker).validate(json.loads(text))
