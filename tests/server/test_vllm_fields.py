"""What vLLM's clients ask for on top of OpenAI's fields: token ids, echoes, batches of conversations, the tokenizer."""

import json

import pytest

from .conftest import MODEL
from .test_bad_input import check_error
from .test_openai_client import GREEDY, HELLO, text_of

PROMPT = "The capital of France is"
BEGUN = [*HELLO, {"role": "assistant", "content": "The capital of France"}]
CONTINUED = {"add_generation_prompt": False, "continue_final_message": True}
IDS = {"extra_body": {"return_token_ids": True}}


def tokenize(http, **body):
    return http.post("/tokenize", json=body).raise_for_status().json()


def detokenize(http, tokens):
    return http.post("/detokenize", json={"tokens": tokens}).raise_for_status().json()["prompt"]


# Token ids


def test_a_chat_has_the_ids_of_its_prompt_and_of_each_choice(ai, http):
    answer = ai.chat.completions.create(messages=HELLO, **IDS, **GREEDY)
    (choice,) = answer.choices
    assert answer.prompt_token_ids == tokenize(http, messages=HELLO)["tokens"]
    assert len(choice.token_ids) == answer.usage.completion_tokens
    assert detokenize(http, choice.token_ids).startswith(choice.message.content)


def test_a_streamed_chat_has_the_prompt_s_ids_in_its_first_chunk_and_the_choice_s_beside_its_texts(ai):
    whole = ai.chat.completions.create(messages=HELLO, **IDS, **GREEDY)
    first, *others = ai.chat.completions.create(messages=HELLO, stream=True, **IDS, **GREEDY)
    assert first.prompt_token_ids == whole.prompt_token_ids
    assert not any("prompt_token_ids" in chunk.model_dump() for chunk in others)
    found = [token for chunk in others for token in chunk.choices[0].model_dump().get("token_ids", [])]
    assert found == whole.choices[0].token_ids
    assert text_of(others) == whole.choices[0].message.content


@pytest.mark.parametrize("more", [{}, {"logprobs": 1}])
def test_a_streamed_completion_has_token_ids_in_every_chunk_and_the_prompt_s_in_each_choice_s_first(ai, more):
    options = {"prompt": [PROMPT, "One, two,"], **IDS, **GREEDY, **more}
    whole = ai.completions.create(**options)
    begun, ids = {}, [[], []]
    for chunk in ai.completions.create(stream=True, **options):
        (choice,) = chunk.choices
        if choice.index not in begun:
            begun[choice.index] = choice.prompt_token_ids
        else:
            assert "prompt_token_ids" not in choice.model_dump()
        ids[choice.index] += choice.token_ids
    assert [begun[i] for i in range(2)] == [choice.prompt_token_ids for choice in whole.choices]
    assert ids == [choice.token_ids for choice in whole.choices]


def test_token_ids_are_null_where_nobody_asked(ai):
    chat = ai.chat.completions.create(messages=HELLO, **GREEDY)
    text = ai.completions.create(prompt=PROMPT, **GREEDY)
    assert chat.prompt_token_ids is chat.choices[0].token_ids is None
    assert text.choices[0].prompt_token_ids is text.choices[0].token_ids is None
    for chunk in ai.chat.completions.create(messages=HELLO, stream=True, **GREEDY):
        assert "token_ids" not in chunk.choices[0].model_dump()


def test_log_probabilities_may_name_tokens_by_their_ids(ai):
    by_ids = {"extra_body": {"return_token_ids": True, "return_tokens_as_token_ids": True}}
    chat = ai.chat.completions.create(messages=HELLO, logprobs=True, top_logprobs=2, **by_ids, **GREEDY).choices[0]
    assert [entry.token for entry in chat.logprobs.content] == [f"token_id:{token}" for token in chat.token_ids]
    assert all(top.token.startswith("token_id:") for entry in chat.logprobs.content for top in entry.top_logprobs)
    assert b"".join(bytes(entry.bytes) for entry in chat.logprobs.content).decode().startswith(chat.message.content)
    options = {"prompt": PROMPT, "logprobs": 2, "echo": True, **GREEDY}
    text = ai.completions.create(**by_ids, **options).choices[0]
    plain = ai.completions.create(**options).choices[0]
    assert text.logprobs.tokens == [f"token_id:{token}" for token in text.prompt_token_ids + text.token_ids]
    assert text.logprobs.top_logprobs[0] is None
    assert all(name.startswith("token_id:") for top in text.logprobs.top_logprobs[1:] for name in top)
    assert text.logprobs.text_offset == plain.logprobs.text_offset
    assert text.text == plain.text


def test_of_no_tokens_there_are_no_ids(ai):
    options = {"model": MODEL, "prompt": PROMPT, "echo": True, "max_tokens": 0, **IDS}
    choice = ai.completions.create(**options).choices[0]
    assert (choice.text, choice.token_ids, choice.finish_reason) == (PROMPT, [], "length")
    (chunk,) = ai.completions.create(stream=True, **options)
    assert (chunk.choices[0].text, chunk.choices[0].token_ids) == (PROMPT, [])


# Echoes


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("parts", [False, True])
def test_a_conversation_s_last_message_may_be_put_before_what_continues_it(ai, echo, parts):
    content = [{"type": "text", "text": BEGUN[-1]["content"]}] if parts else BEGUN[-1]["content"]
    messages = [*HELLO, {"role": "assistant", "content": content}]
    options = {"messages": messages, "extra_body": {"echo": echo, **CONTINUED}, **GREEDY}
    message = ai.chat.completions.create(**options).choices[0].message
    assert message.role == "assistant"
    assert message.content.startswith("The capital of France") == echo
    assert "Paris" in message.content
    assert text_of(ai.chat.completions.create(stream=True, **options)) == message.content


def test_a_message_of_another_role_is_not_echoed(ai):
    echoed = ai.chat.completions.create(messages=HELLO, extra_body={"echo": True}, **GREEDY)
    assert echoed.choices[0].message == ai.chat.completions.create(messages=HELLO, **GREEDY).choices[0].message


def test_an_echo_s_log_probabilities_stream_as_they_come_in_one_piece(ai):
    options = {"prompt": [PROMPT, "One, two,"], "echo": True, "logprobs": 1, **GREEDY}
    whole = ai.completions.create(**options)
    found = [{name: [] for name in ("tokens", "token_logprobs", "text_offset")} for _ in range(2)]
    texts = ["", ""]
    for chunk in ai.completions.create(stream=True, **options):
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        for name, values in found[choice.index].items():
            values += getattr(choice.logprobs, name)
    assert texts == [choice.text for choice in whole.choices]
    assert found == [{name: getattr(choice.logprobs, name) for name in found[0]} for choice in whole.choices]


# Log-probabilities


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_all_log_probabilities_are_more_than_the_server_gives_unless_it_is_told_so(http, path):
    chat = {"messages": HELLO, "logprobs": True, "top_logprobs": -1}
    body = chat if "chat" in path else {"prompt": PROMPT, "logprobs": -1}
    assert "max_logprobs" in check_error(http.post(path, json=body), 400)["message"]


def test_all_log_probabilities_are_told_where_the_server_allows_it(start, tiny_model):
    server = start(tiny_model, "--max-logprobs", "-1")
    options = {"temperature": 0, "max_tokens": 2}
    with server.client() as client:
        chat = {"messages": HELLO, "logprobs": True, "top_logprobs": -1, **options}
        text = {"prompt": "Hello", "logprobs": -1, "return_tokens_as_token_ids": True, **options}
        chat = client.post("/v1/chat/completions", json=chat).json()["choices"][0]
        text = client.post("/v1/completions", json=text).json()["choices"][0]
    for position in chat["logprobs"]["content"]:
        logprobs = [entry["logprob"] for entry in position["top_logprobs"]]
        assert len(logprobs) == 258
        assert logprobs == sorted(logprobs, reverse=True)
    assert [len(position) for position in text["logprobs"]["top_logprobs"]] == [258, 258]


def test_no_likeliest_tokens_ask_for_nothing(http):
    body = {"messages": HELLO, "top_logprobs": 0, "max_tokens": 1}
    assert http.post("/v1/chat/completions", json=body).json()["choices"][0]["logprobs"] is None


# Batches of conversations

CONVERSATIONS = [HELLO, [{"role": "user", "content": "Count to five."}], BEGUN]


def test_a_batch_answers_each_conversation_as_it_would_be_alone(http):
    options = {"max_tokens": 12, "temperature": 0, "return_token_ids": True, "logprobs": True, "top_logprobs": 1}
    batch = http.post("/v1/chat/completions/batch", json={"messages": CONVERSATIONS, **options}).json()
    alone = [
        http.post("/v1/chat/completions", json={"messages": messages, **options}).json() for messages in CONVERSATIONS
    ]
    assert [choice["index"] for choice in batch["choices"]] == [0, 1, 2]
    for choice, answer in zip(batch["choices"], alone, strict=True):
        (its,) = answer["choices"]
        assert {**its, "index": choice["index"]} == {name: choice[name] for name in its}
        assert choice["prompt_token_ids"] == answer["prompt_token_ids"]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert batch["usage"][name] == sum(answer["usage"][name] for answer in alone)
    assert batch["object"] == "chat.completion"


def test_a_batch_may_echo_and_continue(http):
    body = {"messages": [BEGUN, BEGUN], "echo": True, **CONTINUED, **GREEDY}
    choices = http.post("/v1/chat/completions/batch", json=body).json()["choices"]
    assert all(choice["message"]["content"].startswith(BEGUN[-1]["content"]) for choice in choices)


REFUSED = {
    "stream": True,
    "n": 2,
    "best_of": 2,
    "use_beam_search": True,
    "messages": [HELLO, []],
    "temperature": -1,
}


@pytest.mark.parametrize(("name", "value"), REFUSED.items())
def test_what_a_batch_can_t_have_is_refused_by_name(http, name, value):
    error = check_error(http.post("/v1/chat/completions/batch", json={"messages": CONVERSATIONS, name: value}), 400)
    assert error["param"] == name


def test_a_conversation_is_no_batch_and_a_batch_is_bounded(http):
    error = check_error(http.post("/v1/chat/completions/batch", json={"messages": HELLO}), 400, "messages")
    assert error["message"] == "messages[0]: must be a list, got an object"
    error = check_error(http.post("/v1/chat/completions/batch", json={"messages": [HELLO] * 1025}), 400, "messages")
    assert "1024" in error["message"]


# The tokenizer


def test_tokens_are_spelled_as_the_vocabulary_spells_them(http):
    answer = tokenize(http, prompt="The sky\nis blué", return_token_strs=True)
    assert answer["token_strs"][:3] == ["The", "Ġsky", "Ċ"]
    assert "".join(answer["token_strs"]).endswith("Ã©")
    assert tokenize(http, prompt="The sky")["token_strs"] is None


def test_the_tokenizer_describes_itself(http):
    info = http.get("/tokenizer_info").raise_for_status().json()
    assert info == http.get("/tokenizer_info", params={"model": "assistant"}).json()
    assert info["eos_token"] == "<|im_end|>"
    assert info["model_max_length"] == 2048
    assert "<|im_start|>" in info["chat_template"]
    for token_id, token in info["added_tokens_decoder"].items():
        assert tokenize(http, prompt=token["content"], add_special_tokens=False)["tokens"] == [int(token_id)]
    check_error(http.get("/tokenizer_info", params={"model": "unknown"}), 404)


def test_fields_of_conversations_are_refused_with_a_text(http):
    for name, value in (
        ("add_generation_prompt", True),
        ("continue_final_message", False),
        ("chat_template_kwargs", {}),
    ):
        check_error(http.post("/tokenize", json={"prompt": "Hello", name: value}), 400, name)
    both = {"messages": HELLO, "add_generation_prompt": True, "continue_final_message": True}
    check_error(http.post("/tokenize", json=both), 400, "continue_final_message")


@pytest.fixture
def with_begin(start, tmp_path, tiny_model):
    """A client of a server whose tokenizer puts a token before every text."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_model.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "add_bos_token": True}))
    with start(folder).client() as client:
        yield client


def test_special_tokens_may_be_added_or_left_out_everywhere(with_begin):
    def prompt_of(path, **body):
        answer = with_begin.post(path, json={**body, "max_tokens": 1, "return_token_ids": True}).json()
        return answer.get("prompt_token_ids") or answer["choices"][0]["prompt_token_ids"]

    bare = tokenize(with_begin, messages=HELLO)["tokens"]
    assert tokenize(with_begin, messages=HELLO, add_special_tokens=True)["tokens"] == [0, *bare]
    assert prompt_of("/v1/chat/completions", messages=HELLO) == bare
    assert prompt_of("/v1/chat/completions", messages=HELLO, add_special_tokens=True) == [0, *bare]
    text = tokenize(with_begin, prompt="Hello", add_special_tokens=False)["tokens"]
    assert tokenize(with_begin, prompt="Hello")["tokens"] == [0, *text]
    assert prompt_of("/v1/completions", prompt="Hello") == [0, *text]
    assert prompt_of("/v1/completions", prompt="Hello", add_special_tokens=False) == text


# Names of models


def test_a_model_has_aliases_and_tags(start, tiny_model):
    server = start(tiny_model, "--served-model-name", "tiny", "--alias", "default,small", "--tags", "random,test")
    with server.client() as client:
        (card,) = client.get("/v1/models").json()["data"]
        assert (card["id"], card["aliases"], card["tags"]) == ("tiny", ["default", "small"], ["random", "test"])
        assert client.get("/v1/models/small").json() == card
        check_error(client.get("/v1/models/random"), 404)
