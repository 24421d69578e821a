"""OpenAI's own Python client can't tell this server from the real thing."""

import asyncio
import json

import openai
import pytest

from .conftest import MODEL

HELLO = [{"role": "user", "content": "Name the capital of France."}]
GREEDY = {"model": MODEL, "temperature": 0, "max_tokens": 16}


def text_of(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_a_chat_is_answered(ai):
    answer = ai.chat.completions.create(messages=HELLO, **GREEDY)
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    assert answer.choices[0].message.role == "assistant"
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    again = ai.chat.completions.create(messages=HELLO, **GREEDY).usage
    assert again.prompt_tokens_details.cached_tokens == (again.prompt_tokens - 1) // 32 * 32 > 0, "whole blocks"
    assert usage.completion_tokens_details.reasoning_tokens == 0
    assert answer._request_id


def test_a_streamed_chat_is_the_same_text(ai):
    whole = ai.chat.completions.create(messages=HELLO, **GREEDY).choices[0]
    chunks = list(ai.chat.completions.create(messages=HELLO, stream=True, **GREEDY))
    assert text_of(chunks) == whole.message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({(chunk.id, chunk.model, chunk.created) for chunk in chunks}) == 1
    assert [c.choices[0].finish_reason for c in chunks] == [None] * (len(chunks) - 1) + [whole.finish_reason]
    assert all(chunk.usage is None for chunk in chunks)


def test_sampling_that_is_not_said_is_what_the_model_s_authors_advise(ai):
    options = {"model": MODEL, "max_tokens": 24, "seed": 7, "messages": HELLO}
    texts = [
        ai.chat.completions.create(**options, **said).choices[0].message.content
        for said in ({}, {"temperature": 0.2, "top_p": 0.9}, {"temperature": 2.0})
    ]
    assert texts[0] == texts[1] != texts[2]


def test_usage_comes_in_one_last_chunk_without_choices_where_it_is_asked_for(ai):
    options = {"stream_options": {"include_usage": True}}
    *chunks, last = ai.chat.completions.create(messages=HELLO, stream=True, **options, **GREEDY)
    assert last.choices == []
    assert last.usage.completion_tokens > 0
    assert all(len(chunk.choices) == 1 and chunk.usage is None for chunk in chunks)


def test_the_stream_helper_of_the_client_accumulates_the_answer(ai):
    with ai.chat.completions.stream(messages=HELLO, **GREEDY) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "content.delta" in events
    assert "Paris" in final.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_several_choices_each_end_once(ai, stream):
    options = {"model": MODEL, "messages": HELLO, "n": 3, "temperature": 1, "seed": 7, "max_tokens": 12}
    if not stream:
        answer = ai.chat.completions.create(**options)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return
    texts, ends = ["", "", ""], []
    for chunk in ai.chat.completions.create(stream=True, **options):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            ends.append(choice.index)
    assert sorted(ends) == [0, 1, 2]
    assert all(texts)
    assert [c.message.content for c in ai.chat.completions.create(**options).choices] == texts


@pytest.mark.parametrize("stream", [False, True])
def test_chat_log_probabilities_have_tokens_bytes_and_the_likeliest(ai, stream):
    options = {"messages": HELLO, "logprobs": True, "top_logprobs": 3, **GREEDY}
    if stream:
        chunks = ai.chat.completions.create(stream=True, **options)
        entries = [e for c in chunks if c.choices and c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    else:
        entries = ai.chat.completions.create(**options).choices[0].logprobs.content
    assert len(entries) > 3
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert bytes(entry.bytes).decode(errors="replace") == entry.token
        assert entry.logprob <= 0
        assert entry.top_logprobs[0].logprob == entry.logprob  # greedy takes the likeliest
        assert sorted((top.logprob for top in entry.top_logprobs), reverse=True) == [
            top.logprob for top in entry.top_logprobs
        ]


def test_a_completion_continues_text_and_a_list_of_prompts(ai):
    one = ai.completions.create(prompt="The capital of France is", **GREEDY)
    assert one.object == "text_completion"
    assert "Paris" in one.choices[0].text
    many = ai.completions.create(prompt=["The capital of France is", "Two and two"], n=1, **GREEDY)
    assert [choice.index for choice in many.choices] == [0, 1]
    assert many.choices[0].text == one.choices[0].text
    assert many.usage.completion_tokens > one.usage.completion_tokens


def test_a_completion_takes_token_ids_and_lists_of_them(ai, http):
    text = "The capital of France is"
    ids = http.post("/tokenize", json={"prompt": text}).json()["tokens"]
    by_text, by_ids = (ai.completions.create(prompt=prompt, **GREEDY) for prompt in (text, ids))
    assert by_ids.choices[0].text == by_text.choices[0].text
    both = ai.completions.create(prompt=[ids, ids[:3]], **GREEDY)
    assert both.choices[0].text == by_text.choices[0].text
    assert both.usage.prompt_tokens == len(ids) + 3


def test_a_streamed_list_of_prompts_says_which_choice_is_meant(ai):
    prompts = ["The capital of France is", "Two and two"]
    whole = ai.completions.create(prompt=prompts, **GREEDY)
    texts, ends = ["", ""], []
    for chunk in ai.completions.create(prompt=prompts, stream=True, **GREEDY):
        texts[chunk.choices[0].index] += chunk.choices[0].text
        ends += [chunk.choices[0].index] if chunk.choices[0].finish_reason else []
    assert texts == [choice.text for choice in whole.choices]
    assert sorted(ends) == [0, 1]


def test_echo_puts_the_prompt_first_and_its_first_log_probability_is_null(ai):
    text = "The capital of France is"
    answer = ai.completions.create(prompt=text, echo=True, logprobs=2, **GREEDY)
    choice = answer.choices[0]
    assert choice.text.startswith(text)
    logprobs = choice.logprobs
    assert logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])
    assert "".join(logprobs.tokens) == choice.text
    assert logprobs.text_offset == [len("".join(logprobs.tokens[:i])) for i in range(len(logprobs.tokens))]
    assert len(logprobs.top_logprobs) == len(logprobs.tokens)
    scored = ai.completions.create(model=MODEL, prompt=text, echo=True, logprobs=2, max_tokens=0)
    assert scored.choices[0].text == text
    assert (
        scored.choices[0].logprobs.token_logprobs == logprobs.token_logprobs[: len(scored.choices[0].logprobs.tokens)]
    )
    assert scored.usage.completion_tokens == 0


def test_completion_log_probabilities_stream_as_they_come_in_one_piece(ai):
    options = {"prompt": "One, two, three,", "logprobs": 2, **GREEDY}
    whole = ai.completions.create(**options).choices[0].logprobs
    pieces = [c.choices[0].logprobs for c in ai.completions.create(stream=True, **options)]
    for name in ("tokens", "token_logprobs", "text_offset"):
        assert [item for piece in pieces if piece for item in getattr(piece, name)] == getattr(whole, name)


def test_models_are_listed_and_found_by_every_name(ai, real_model):
    (card,) = ai.models.list().data
    assert (card.id, card.object, card.owned_by) == (MODEL, "model", "octavo")
    assert card.max_model_len == 2048
    for name in (MODEL, "assistant", str(real_model), real_model.name):
        assert ai.models.retrieve(name).id == MODEL
        assert ai.chat.completions.create(**{**GREEDY, "model": name}, messages=HELLO).model == name


def test_an_unknown_model_is_not_found_and_the_error_says_which_there_are(ai):
    with pytest.raises(openai.NotFoundError) as caught:
        ai.chat.completions.create(**{**GREEDY, "model": "tiny-asistant"}, messages=HELLO)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert MODEL in caught.value.message
    assert "Did you mean" in caught.value.message


def test_a_long_prompt_says_the_context_s_length(ai):
    long = [{"role": "user", "content": "word " * 3000}]
    with pytest.raises(openai.BadRequestError, match="This model's maximum context length is 2048") as caught:
        ai.chat.completions.create(messages=long, **GREEDY)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match=r"context length is 2048 tokens\. However, you requested"):
        ai.chat.completions.create(**{**GREEDY, "max_tokens": 2048}, messages=HELLO)


def test_content_may_be_parts_and_the_role_developer_is_system(ai):
    parts = [{"role": "user", "content": [{"type": "text", "text": HELLO[0]["content"]}]}]
    plain = ai.chat.completions.create(messages=HELLO, **GREEDY)
    assert ai.chat.completions.create(messages=parts, **GREEDY).choices[0].message == plain.choices[0].message
    system, developer = (
        ai.chat.completions.create(messages=[{"role": role, "content": "Answer in capitals."}, *HELLO], **GREEDY)
        for role in ("system", "developer")
    )
    assert system.choices[0].message == developer.choices[0].message
    assert system.usage == developer.usage


def test_tool_calls_of_earlier_answers_with_null_content_are_taken(ai):
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    history = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Paris"},
    ]
    assert ai.chat.completions.create(messages=history, **GREEDY).choices[0].finish_reason


def test_max_completion_tokens_is_max_tokens(ai):
    options = {"model": MODEL, "messages": HELLO, "temperature": 0}
    old = ai.chat.completions.create(max_tokens=3, **options)
    new = ai.chat.completions.create(max_completion_tokens=3, **options)
    assert old.choices == new.choices
    assert new.choices[0].finish_reason == "length"
    assert new.usage.completion_tokens == 3


def test_stop_strings_end_a_text_and_are_not_shown(ai):
    options = {"prompt": "One, two, three, four,", **GREEDY}
    whole = ai.completions.create(**options).choices[0].text
    stop = whole.split()[2]
    for given in (stop, [stop, "nothing like it"]):
        choice = ai.completions.create(stop=given, **options).choices[0]
        assert choice.finish_reason == "stop"
        assert choice.stop_reason == stop
        assert choice.text == whole[: whole.index(stop)]
        pieces = ai.completions.create(stop=given, stream=True, **options)
        assert "".join(piece.choices[0].text for piece in pieces) == choice.text


EXTRAS = {
    "top_k": 1,
    "min_p": 0.5,
    "repetition_penalty": 1.2,
    "stop_token_ids": [5],
    "ignore_eos": True,
    "min_tokens": 2,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "include_stop_str_in_output": True,
    "bad_words": ["Paris"],
    "allowed_token_ids": [100, 200, 300],
    "priority": 0,
    "cache_salt": "mine",
    "request_id": "abc",
    "prompt_logprobs": 1,
    "length_penalty": 1.0,
}


@pytest.mark.parametrize(("name", "value"), EXTRAS.items())
def test_vllm_s_extra_fields_are_taken_by_both_endpoints(ai, name, value):
    options = {"model": MODEL, "max_tokens": 4, "extra_body": {name: value}}
    assert ai.chat.completions.create(messages=HELLO, **options).choices
    assert ai.completions.create(prompt="Hello", **options).choices


def test_a_conversation_may_end_with_an_answer_that_is_continued(ai):
    messages = [*HELLO, {"role": "assistant", "content": "The capital of France is"}]
    more = {"add_generation_prompt": False, "continue_final_message": True}
    answer = ai.chat.completions.create(messages=messages, extra_body=more, **GREEDY)
    assert "Paris" in answer.choices[0].message.content
    assert "capital of France is" not in answer.choices[0].message.content


def test_a_seed_repeats_an_answer_and_logit_bias_forbids_a_token(ai, http):
    options = {"model": MODEL, "messages": HELLO, "temperature": 1.0, "max_tokens": 12}
    first, again = (ai.chat.completions.create(seed=3, **options).choices[0].message.content for _ in range(2))
    assert first == again
    banned = {str(i): -100 for i in http.post("/tokenize", json={"prompt": " Paris"}).json()["tokens"]}
    answer = ai.chat.completions.create(messages=HELLO, logit_bias=banned, **GREEDY)
    assert " Paris" not in answer.choices[0].message.content


def test_prompt_log_probabilities_are_told_where_they_are_asked_for(ai):
    answer = ai.completions.create(prompt="The capital of France", extra_body={"prompt_logprobs": 0}, **GREEDY)
    first, *others = answer.choices[0].prompt_logprobs
    assert first is None
    assert all(entry["logprob"] <= 0 for position in others for entry in position.values())


def test_many_streams_at_once_get_what_they_would_get_alone(server, ai):
    prompts = [f"{number} plus {number} is" for number in range(24)]
    alone = [ai.completions.create(prompt=prompt, **GREEDY).choices[0].text for prompt in prompts]

    async def stream(client, prompt):
        pieces = await client.completions.create(prompt=prompt, stream=True, **GREEDY)
        return "".join([piece.choices[0].text async for piece in pieces])

    async def main():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="EMPTY") as client:
            return await asyncio.gather(*(stream(client, prompt) for prompt in prompts))

    assert asyncio.run(main()) == alone


def test_ids_come_from_the_request_or_are_fresh(ai, http):
    body = {**GREEDY, "messages": HELLO, "max_tokens": 1}
    assert http.post("/v1/chat/completions", json={**body, "request_id": "mine"}).json()["id"] == "chatcmpl-mine"
    answer = http.post("/v1/chat/completions", json=body, headers={"x-request-id": "yours"})
    assert answer.headers["x-request-id"] == "yours"
    assert answer.json()["id"] == "chatcmpl-yours"
    ids = {json.loads(http.post("/v1/chat/completions", json=body).content)["id"] for _ in range(3)}
    assert len(ids) == 3
