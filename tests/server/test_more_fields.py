"""Fields of vLLM's and OpenAI's requests that few send: suffixes, cut prompts, many samples in a stream."""

import json

import pytest

from cli.conftest import make_tiny_llama
from octavo import LLM, SamplingParams
from octavo.text.fill_in_the_middle import FORMS, infill_ids

from .conftest import MODEL
from .test_bad_input import check_error
from .test_openai_client import GREEDY, HELLO

PROMPT = "The capital of France is"
SAMPLED = {"model": MODEL, "n": 3, "temperature": 1.0, "seed": 7, "max_tokens": 8}


@pytest.fixture(scope="module")
def filling(tmp_path_factory):
    """A tiny model with StarCoder's tokens, and its folder."""
    folder = make_tiny_llama(tmp_path_factory.mktemp("filling") / "tiny-coder")
    path = folder / "tokenizer.json"
    found = json.loads(path.read_text())
    added = found["added_tokens"]
    spent = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>"]
    for token, name in zip(range(250, 254), spent, strict=True):  # in place of bytes that no text of a test has
        vocabulary = found["model"]["vocab"]
        del vocabulary[next(spelling for spelling, id in vocabulary.items() if id == token)]
        vocabulary[name] = token
        added.append({**added[0], "id": token, "content": name})
    path.write_text(json.dumps(found))
    return folder


def test_a_suffix_asks_for_what_is_before_it(start, filling):
    server = start(filling, "--dtype", "float32")
    llm = LLM(filling, dtype="float32")
    tokenizer = llm.model.tokenizer
    ids = infill_ids(FORMS[1], tokenizer, tokenizer.encode("def f(", add_special_tokens=False), "return 1")
    end = tokenizer.token_id("<file_sep>")
    params = SamplingParams(temperature=0, max_tokens=8, logit_bias={end: 100}, logprobs=0)
    expected = llm.generate([ids], params, use_tqdm=False)[0].outputs[0]
    body = {"prompt": "def f(", "suffix": "return 1", "temperature": 0, "max_tokens": 8, "return_token_ids": True}
    with server.client() as client:
        answer = client.post("/v1/completions", json=body).raise_for_status().json()["choices"][0]
        assert answer["prompt_token_ids"] == ids
        by_ids = {**body, "prompt": tokenizer.encode("def f(", add_special_tokens=False)}
        assert client.post("/v1/completions", json=by_ids).json()["choices"][0] == answer
        streamed = [
            json.loads(line[6:])
            for line in client.post("/v1/completions", json={**body, "stream": True}).iter_lines()
            if line.startswith("data: {")
        ]
        assert "".join(chunk["choices"][0]["text"] for chunk in streamed) == answer["text"]
        ended = client.post("/v1/completions", json={**body, "logit_bias": {str(end): 100}}).json()["choices"][0]
        assert (ended["finish_reason"], ended["stop_reason"], ended["text"]) == ("stop", end, "")
        assert expected.token_ids[0] == end
        check_error(client.post("/v1/completions", json={**body, "echo": True}), 400, "suffix")
        check_error(client.post("/v1/completions", json={**body, "truncate_prompt_tokens": 5}), 400)


def test_a_model_without_such_tokens_says_so(http):
    error = check_error(http.post("/v1/completions", json={"prompt": "a", "suffix": "b"}), 400, "suffix")
    assert "leave suffix out" in error["message"]
    assert http.post("/v1/completions", json={"prompt": "a", "suffix": "", "max_tokens": 1}).status_code == 200


def test_a_prompt_may_be_cut_to_its_end(ai, http):
    ids = http.post("/tokenize", json={"prompt": PROMPT}).json()["tokens"]
    cut = {"extra_body": {"truncate_prompt_tokens": 3, "return_token_ids": True}}
    answer = ai.completions.create(prompt=PROMPT, **cut, **GREEDY)
    assert answer.choices[0].prompt_token_ids == ids[-3:]
    assert answer.usage.prompt_tokens == 3
    assert answer.choices[0].text == ai.completions.create(prompt=ids[-3:], **GREEDY).choices[0].text
    chat = ai.chat.completions.create(messages=HELLO, **cut, **GREEDY)
    assert len(chat.prompt_token_ids) == chat.usage.prompt_tokens == 3


def test_a_prompt_that_is_too_long_may_be_cut_to_what_fits(ai, http):
    long = "one two three " * 2000
    fits = {"extra_body": {"truncate_prompt_tokens": -1}}
    answer = ai.completions.create(model=MODEL, prompt=long, max_tokens=10, temperature=0, **fits)
    assert answer.usage.prompt_tokens == 2048 - 10
    for count in (0, -2, 2049, "a"):
        body = {"prompt": PROMPT, "truncate_prompt_tokens": count}
        check_error(http.post("/v1/completions", json=body), 400, "truncate_prompt_tokens")
    check_error(http.post("/v1/completions", json={"prompt": PROMPT, "truncation_side": "right"}), 400)


def test_any_tier_of_openai_s_is_taken(ai):
    for tier in ("auto", "default", "flex", "priority"):
        assert ai.chat.completions.create(messages=HELLO, service_tier=tier, **GREEDY).choices


def test_samples_of_a_chat_stream_as_they_come_in_one_piece(ai):
    options = {"messages": HELLO, "logprobs": True, "top_logprobs": 2, **SAMPLED}
    whole = ai.chat.completions.create(**options)
    texts, logprobs, reasons = {}, {}, {}
    for chunk in ai.chat.completions.create(stream=True, **options):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            logprobs.setdefault(choice.index, []).extend(choice.logprobs.content if choice.logprobs else [])
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in whole.choices}) > 1
    for choice in whole.choices:
        assert texts[choice.index] == choice.message.content
        assert logprobs[choice.index] == choice.logprobs.content
        assert reasons[choice.index] == choice.finish_reason


def test_samples_of_several_prompts_stream_as_they_come_in_one_piece(ai):
    options = {"prompt": [PROMPT, "One, two,"], "logprobs": 2, "echo": True, **SAMPLED}
    whole = ai.completions.create(**options)
    texts, tokens = {}, {}
    for chunk in ai.completions.create(stream=True, **options):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            tokens.setdefault(choice.index, []).extend(
                zip(choice.logprobs.tokens, choice.logprobs.token_logprobs, strict=True)
            )
    assert [choice.index for choice in whole.choices] == list(range(6))
    for choice in whole.choices:
        assert texts[choice.index] == choice.text
        assert tokens[choice.index] == list(zip(choice.logprobs.tokens, choice.logprobs.token_logprobs, strict=True))
    assert whole.usage.completion_tokens == 6 * 8


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_the_best_of_several_are_returned(http, path):
    prompt = {"messages": HELLO} if "chat" in path else {"prompt": PROMPT}
    options = {**SAMPLED, **prompt, "best_of": 6, "n": 2, "logprobs": True if "chat" in path else 0}
    answer = http.post(path, json=options).raise_for_status().json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    sums = [total(choice["logprobs"]) for choice in answer["choices"]]
    everything = http.post(path, json={**options, "best_of": 6, "n": 6}).json()
    every = sorted((total(choice["logprobs"]) for choice in everything["choices"]), reverse=True)
    assert sums == pytest.approx(every[:2])
    assert answer["usage"]["completion_tokens"] == 2 * 8
    check_error(http.post(path, json={**options, "stream": True}), 400, "best_of")
    check_error(http.post(path, json={**options, "best_of": 1}), 400, "best_of")


def total(logprobs):
    if "content" in logprobs:
        return sum(entry["logprob"] for entry in logprobs["content"])
    return sum(logprobs["token_logprobs"])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_log_probabilities_of_a_prompt_have_vllm_s_shape(http, path):
    """A list with an entry for each token, the first of which is null; entries by id, with those asked for."""
    prompt = {"messages": HELLO} if "chat" in path else {"prompt": PROMPT}
    options = {**SAMPLED, **prompt, "prompt_logprobs": 2, "return_token_ids": True}
    answer = http.post(path, json=options).raise_for_status().json()
    holders = [answer] if "chat" in path else answer["choices"]
    assert len(answer["choices"]) == 3
    for holder in holders:
        first, *others = holder["prompt_logprobs"]
        ids = holder["prompt_token_ids"]
        assert first is None
        assert len(others) == len(ids) - 1
        for token, position in zip(ids[1:], others, strict=True):
            assert str(token) in position
            assert 2 <= len(position) <= 3
            assert all(set(entry) == {"logprob", "rank", "decoded_token"} for entry in position.values())
            ranks = [entry["rank"] for entry in position.values()]
            assert {1, 2} <= set(ranks)
    if "chat" in path:
        assert all("prompt_logprobs" not in choice for choice in answer["choices"])
    check_error(http.post(path, json={**options, "stream": True}), 400, "prompt_logprobs")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_biases_and_bad_words_hold_in_both_kinds_of_completions(http, path):
    prompt = {"messages": HELLO} if "chat" in path else {"prompt": PROMPT}
    options = {**prompt, "temperature": 0, "max_tokens": 6, "return_token_ids": True}

    def ask(**more):
        (choice,) = http.post(path, json={**options, **more}).raise_for_status().json()["choices"]
        return choice["token_ids"], choice["message"]["content"] if "chat" in path else choice["text"]

    plain, text = ask()
    forced, _ = ask(logit_bias={"1234": 100})
    assert forced == [1234] * 6
    banned, _ = ask(logit_bias={str(plain[0]): -100})
    assert banned[0] != plain[0]
    word = text.split()[0]
    _, without = ask(bad_words=[word])
    assert word not in without.split()
    check_error(http.post(path, json={**options, "logits_processors": ["a:b"]}), 400, "logits_processors")
