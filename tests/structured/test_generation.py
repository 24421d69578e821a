"""Structured output through the whole engine, on a tiny random model: the hardest there is, as it writes nonsense."""

import json

import jsonschema
import pytest

from octavo import SamplingParams, StructuredOutputsParams
from octavo.errors import GrammarError, NoTokenError, UnsupportedError
from octavo.request import Prompt
from octavo.structured.constraint import GrammarConstraint

TEXT = "And so, my fellow Americans: ask not"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["teacher", "teaches", "pupil"]},
        "tags": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
    },
    "required": ["name", "kind", "tags"],
    "additionalProperties": False,
}
END = 1


def params(structure=None, **options):
    asked = StructuredOutputsParams(**(structure or {"json": PERSON}))
    return SamplingParams(**{"temperature": 1, "seed": 1, "max_tokens": 120, "structured_outputs": asked, **options})


def generate(llm, *all_params, prompt=TEXT):
    outputs = llm.generate([prompt] * len(all_params), list(all_params), use_tqdm=False)
    return [told(completion) for output in outputs for completion in output.outputs]


def told(completion):
    return completion.token_ids, completion.text, completion.finish_reason, completion.stop_reason


def num_steps(llm):
    return sum(llm.engine.scheduler.steps.values())


@pytest.mark.parametrize("temperature", [0, 1, 2])
def test_a_schema_is_followed(llm, temperature):
    for ids, text, reason, _ in generate(llm, *(params(temperature=temperature, seed=seed) for seed in range(8))):
        jsonschema.validate(json.loads(text), PERSON)
        assert text == json.dumps(json.loads(text), ensure_ascii=False), "white space is that of json.dumps"
        assert (reason, ids[-1]) == ("stop", END)


@pytest.mark.parametrize(
    ("structure", "texts"),
    [
        ({"regex": "[ab]{3}(c|d)"}, {f"{x}{y}{z}{end}" for x in "ab" for y in "ab" for z in "ab" for end in "cd"}),
        ({"choice": ["yes", "no", "né\n\"'/"]}, {"yes", "no", "né\n\"'/"}),
        ({"grammar": 'start: "x" tail\ntail: /[0-1]/ | "y" tail_two\ntail_two: "z"'}, {"x0", "x1", "xyz"}),
        ({"grammar": 'root ::= "x" tail\ntail ::= [0-1] | "yz"'}, {"x0", "x1", "xyz"}),
        ({"json": {"enum": [None, True, {"a": [1]}]}}, {"null", "true", '{"a": [1]}'}),
        ({"json": '{"const": "a b"}', "disable_any_whitespace": True}, {'"a b"'}),
        ({"json": {"const": [1, {"a": 2}]}, "disable_any_whitespace": True}, {'[1,{"a":2}]'}),
        ({"json": {"const": [1]}, "whitespace_pattern": "[ ]?"}, {"[1]", "[ 1]", "[1 ]", "[ 1 ]"}),
    ],
)
def test_every_kind_gives_what_it_asks_for(llm, structure, texts):
    found = generate(llm, *(params(structure, seed=seed) for seed in range(6)))
    assert {text for _, text, _, _ in found} <= texts
    assert {reason for _, _, reason, _ in found} == {"stop"}


def test_any_object_is_an_object(llm):
    for _, text, reason, _ in generate(llm, *(params({"json_object": True}, seed=seed) for seed in range(4))):
        assert text.startswith("{")
        assert reason == "length" or isinstance(json.loads(text), dict)


VARIANTS = {
    "plain": {},
    "greedy": {"temperature": 0},
    "penalties": {"presence_penalty": 1.5, "frequency_penalty": 0.5, "repetition_penalty": 1.5},
    "few": {"top_k": 5, "min_p": 0.01},
    "most likely": {"top_p": 0.5, "min_tokens": 30},
    "stop": {"stop": ['"ki']},
    "stop inside": {"stop": ["each"], "include_stop_str_in_output": True},
    "short": {"max_tokens": 7},
    "several": {"n": 3},
    "one token": {"max_tokens": 1},
    "no end": {"ignore_eos": True},
    "choice": {"structure": {"choice": ["yes", "no"]}, "min_tokens": 20},
}


@pytest.fixture(params=sorted(VARIANTS))
def variant(request):
    return VARIANTS[request.param]


def test_forced_tokens_are_those_that_would_be_drawn(llm, variant):
    before = num_steps(llm)
    taken = generate(llm, params(**variant))
    steps = num_steps(llm) - before
    drawn = generate(llm, params(**variant, logprobs=0))
    assert taken == drawn
    longest = max(len(ids) for ids, *_ in taken)
    assert steps <= longest
    if variant == {}:
        assert steps < longest, "some tokens have no step of their own"


def test_text_and_tokens_do_not_depend_on_the_batch(make_llm):
    llm = make_llm(max_num_seqs=16)
    variants = [params(**VARIANTS[name]) for name in sorted(VARIANTS)] + [SamplingParams(seed=5, max_tokens=30)]
    alone = [each for one in variants for each in generate(llm, one)]
    assert generate(llm, *variants) == alone


def test_logprobs_are_those_of_the_model(llm):
    (output,) = llm.generate(TEXT, params(logprobs=2), use_tqdm=False)
    (completion,) = output.outputs
    assert len(completion.logprobs) == len(completion.token_ids)
    for entry, token in zip(completion.logprobs, completion.token_ids, strict=True):
        assert entry[token].logprob < 0
        assert len(entry) in (2, 3)


def test_a_banned_word_is_spelled_otherwise(llm):
    banned = llm.model.tokenizer.encode('{"')[0]
    for options in ({"logit_bias": {banned: -100.0}}, {"bad_words": ["teacher"]}):
        for _, text, _, _ in generate(llm, params(**options)):
            jsonschema.validate(json.loads(text), PERSON)


def test_what_is_complete_ends_although_its_end_is_banned(llm):
    for options in ({"min_tokens": 50}, {"ignore_eos": True}):
        ((ids, text, reason, _),) = generate(llm, params({"choice": ["yes"]}, **options))
        assert (text, reason) == ("yes", "stop")
        assert END not in ids
    ((ids, text, reason, _),) = generate(llm, params({"choice": ["yes"]}, allowed_token_ids=[*range(2, 500)]))
    assert (text, reason) == ("yes", "stop")


def test_a_request_that_bans_all_that_the_grammar_allows_is_told_so(llm):
    (output,) = llm.generate([TEXT], params({"regex": "a"}, allowed_token_ids=[5]), use_tqdm=False)
    assert isinstance(output.error, NoTokenError)
    assert output.error.name == "allowed_token_ids, structured_outputs"


def test_preemption_changes_nothing(make_llm):
    llm = make_llm(num_gpu_blocks_override=11, enable_prefix_caching=False)
    all_params = [params(seed=seed, n=1 + seed % 2, max_tokens=50) for seed in range(4)]
    expected = [each for one in all_params for each in generate(llm, one)]
    assert llm.engine.scheduler.num_preemptions == 0
    assert generate(llm, *all_params) == expected
    assert llm.engine.scheduler.num_preemptions > 0


def test_the_prefix_cache_changes_nothing(make_llm):
    llm = make_llm()
    first = generate(llm, params(n=2))
    hits = llm.engine.scheduler.num_prefix_hits
    assert generate(llm, params(n=2)) == first
    assert llm.engine.scheduler.num_prefix_hits > hits


def test_an_aborted_request_leaves_the_others(llm):
    expected = generate(llm, params(seed=2))
    engine = llm.engine
    engine.submit("a", Prompt(None, llm.model.tokenizer.encode(TEXT)), params(seed=1))
    engine.submit("b", Prompt(None, llm.model.tokenizer.encode(TEXT)), params(seed=2))
    for _ in range(5):
        engine.step()
    engine.abort("a")
    last = None
    while engine.has_work:
        for output in engine.step():
            last = output
    assert [told(completion) for completion in last.outputs] == expected
    assert engine.scheduler.block_usage == 0


def test_a_constraint_that_fails_ends_its_request_alone(llm, monkeypatch):
    expected = generate(llm, params(seed=2))
    look, calls = GrammarConstraint._check, []

    def fail(self):
        look(self)
        calls.append(self)
        if self is calls[0] and calls.count(self) == 6:
            raise GrammarError("structured_outputs", "has run out of fuel")

    monkeypatch.setattr(GrammarConstraint, "_check", fail)
    outputs = llm.generate([TEXT] * 2, [params(seed=1), params(seed=2)], use_tqdm=False)
    assert "fuel" in str(outputs[0].error)
    assert [told(completion) for completion in outputs[1].outputs] == expected


@pytest.mark.parametrize(
    ("structure", "path", "reason"),
    [
        ({"json": {"properties": {"a": {"not": {}}}}}, "structured_outputs.json.properties.a.not", "not supported"),
        ({"json": "{"}, "structured_outputs.json", "is no JSON"),
        ({"regex": "("}, "structured_outputs", "unclosed group|invalid regex"),
        ({"regex": "a(?=b)"}, "structured_outputs", "invalid regex"),
        ({"grammar": "start: missing"}, "structured_outputs", "missing"),
        ({"grammar": "nonsense"}, "structured_outputs.grammar", "neither Lark"),
        ({"choice": []}, "structured_outputs.choice", "1 to 4096"),
        ({"choice": ["a", ""]}, "structured_outputs.choice[1]", "at least one character"),
    ],
)
def test_a_bad_structure_is_refused_with_its_path(llm, structure, path, reason):
    with pytest.raises(GrammarError, match=reason) as error:
        llm.generate(TEXT, params(structure), use_tqdm=False)
    assert error.value.name == path
    assert not llm.engine.jobs


def test_beams_are_refused():
    with pytest.raises(UnsupportedError, match="structured_outputs"):
        params(temperature=0, n=2, use_beam_search=True)


@pytest.mark.parametrize("executor", ["torch"])
def test_the_torch_executor_gives_the_same(make_llm):
    names = sorted(set(VARIANTS) - {"most likely"})
    variants = [params(**VARIANTS[name]) for name in names]
    assert generate(make_llm(), *variants) == generate(make_llm(executor="native"), *variants)
