"""Tools over HTTP, with OpenAI's client: calls that parse, histories with results, and what is refused."""

import json

import jsonschema
import pytest

from .running import Server
from .test_bad_input import check_error
from .test_openai_client import GREEDY

CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
SUM = {
    "type": "object",
    "properties": {
        "numbers": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
        "round": {"type": "boolean"},
    },
    "required": ["numbers", "round"],
}
SCHEMAS = {"get_weather": CITY, "add": SUM}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": f"Does {name}", "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
ASK = [{"role": "user", "content": "What is the weather in Paris? Use a tool."}]
FUNCTION = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
CALLED = [
    *ASK,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "a1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
        ],
    },
]
RESULT = {"role": "tool", "tool_call_id": "a1", "content": "Sunny."}
REQUIRED = {"messages": ASK, "tools": TOOLS, "tool_choice": "required", **GREEDY, "max_tokens": 400}


def named(name):
    return {"type": "function", "function": {"name": name}}


def check_calls(calls, names=SCHEMAS):
    assert calls
    for call in calls:
        assert (call.type, call.function.name in names) == ("function", True)
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    assert len({call.id for call in calls}) == len(calls)


def collected(chunks):
    """(content, [(id, name, arguments)], finish reasons) of a stream, with what is told once checked to be."""
    content, calls, reasons = "", [], []
    for chunk in chunks:
        (choice,) = chunk.choices
        content += choice.delta.content or ""
        reasons += [choice.finish_reason] if choice.finish_reason else []
        for delta in choice.delta.tool_calls or ():
            if delta.id is not None:
                assert (delta.index, delta.type) == (len(calls), "function")
                calls.append([delta.id, delta.function.name, ""])
            else:
                assert (delta.type, delta.function.name, delta.index) == (None, None, len(calls) - 1)
            calls[delta.index][2] += delta.function.arguments
    return content, calls, reasons


def test_a_required_call_parses_and_fits(ai):
    (choice,) = ai.chat.completions.create(**REQUIRED).choices
    assert choice.finish_reason in ("tool_calls", "length")
    assert choice.message.content is None or choice.finish_reason == "length"
    check_calls(choice.message.tool_calls)


def test_a_stream_tells_the_same_calls_each_begun_once(ai):
    options = {**REQUIRED, "parallel_tool_calls": False}
    (whole,) = ai.chat.completions.create(**options).choices
    content, calls, reasons = collected(ai.chat.completions.create(stream=True, **options))
    assert (content, reasons) == ("", ["tool_calls"])
    assert [call[1:] for call in calls] == [
        [call.function.name, call.function.arguments] for call in whole.message.tool_calls
    ]
    assert all(call[0].startswith("call_") for call in calls)


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("temperature", [0.5, 2])
def test_a_named_tool_is_called_once_where_calls_are_not_parallel(ai, name, temperature):
    options = {**REQUIRED, "tool_choice": named(name), "temperature": temperature, "seed": 3, "n": 4, "max_tokens": 200}
    choices = ai.chat.completions.create(parallel_tool_calls=False, **options).choices
    for choice in choices:
        if choice.finish_reason == "tool_calls":
            check_calls(choice.message.tool_calls, [name])
            assert len(choice.message.tool_calls) == 1
    assert any(choice.finish_reason == "tool_calls" for choice in choices)


def test_allowed_tools_are_those_that_may_be_called(ai):
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named("add")]}}
    options = {**REQUIRED, "tool_choice": allowed, "parallel_tool_calls": False}
    check_calls(ai.chat.completions.create(**options).choices[0].message.tool_calls, ["add"])


def test_the_client_s_own_stream_helper_puts_calls_together(ai):
    options = {name: value for name, value in REQUIRED.items() if name != "stream"}
    with ai.chat.completions.stream(parallel_tool_calls=False, **options) as stream:
        message = stream.get_final_completion().choices[0].message
    check_calls(message.tool_calls)


def test_a_model_that_may_call_may_answer_with_text(ai):
    (choice,) = ai.chat.completions.create(messages=ASK, tools=TOOLS, **GREEDY).choices
    assert choice.message.content or choice.message.tool_calls


def test_none_and_no_tools_are_the_same(ai):
    none = ai.chat.completions.create(messages=ASK, tools=TOOLS, tool_choice="none", **GREEDY)
    without = ai.chat.completions.create(messages=ASK, **GREEDY)
    assert none.choices[0].message == without.choices[0].message
    assert none.usage.prompt_tokens == without.usage.prompt_tokens


def test_results_go_to_the_model(ai, http):
    options = {"tools": TOOLS, **GREEDY}
    answer = ai.chat.completions.create(messages=[*CALLED, RESULT], **options)
    assert answer.choices[0].message.content
    body = {"messages": [*CALLED, RESULT], "tools": TOOLS}
    tokens = http.post("/tokenize", json=body).raise_for_status().json()["tokens"]
    prompt = http.post("/detokenize", json={"tokens": tokens}).json()["prompt"]
    for text in ('"get_weather"', '{"city": "Paris"}', "Sunny.", "<tool_call>", "<tool_response>"):
        assert text in prompt
    assert answer.usage.prompt_tokens == len(tokens)


def test_a_batch_has_tools_too(http):
    body = {"messages": [ASK, ASK], "tools": TOOLS, "tool_choice": named("add"), "max_tokens": 200, "temperature": 0}
    answer = (
        http.post("/v1/chat/completions/batch", json={**body, "parallel_tool_calls": False}).raise_for_status().json()
    )
    for choice in answer["choices"]:
        (call,) = choice["message"]["tool_calls"]
        jsonschema.validate(json.loads(call["function"]["arguments"]), SUM)


def test_logprobs_are_those_of_all_tokens(ai):
    answer = ai.chat.completions.create(logprobs=True, parallel_tool_calls=False, **REQUIRED)
    spelled = b"".join(bytes(entry.bytes) for entry in answer.choices[0].logprobs.content).decode()
    assert spelled.startswith('<tool_call>\n{"name": ')
    chunks = ai.chat.completions.create(logprobs=True, parallel_tool_calls=False, stream=True, **REQUIRED)
    told = [entry for chunk in chunks if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]
    assert told == answer.choices[0].logprobs.content


def test_a_json_answer_and_tools_exclude_each_other_by_what_is_answered(ai):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": CITY}}
    (choice,) = ai.chat.completions.create(messages=ASK, tools=TOOLS, response_format=form, **GREEDY).choices
    if choice.message.tool_calls:
        check_calls(choice.message.tool_calls)
    elif choice.finish_reason == "stop":
        jsonschema.validate(json.loads(choice.message.content), CITY)


def with_arguments(arguments):
    return [*ASK, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]


BAD = {
    "two of a name": ({"tools": [TOOLS[0], TOOLS[0]]}, "tools", "same name"),
    "long name": (
        {"tools": [{"type": "function", "function": {"name": "x" * 1000}}]},
        "tools.function.name",
        "must match",
    ),
    "another type": ({"tools": [{"type": "web_search"}]}, "tools", "'web_search' are not supported"),
    "too many": ({"tools": [named(f"f{i}") for i in range(129)]}, "tools", "at most 128"),
    "a schema of no object": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]},
        "tools[0].function.parameters.type",
        "must be 'object'",
    ),
    "a keyword that can't be honoured": (
        {
            "tools": [
                *TOOLS,
                {
                    "type": "function",
                    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"not": {}}}}},
                },
            ]
        },
        "tools[2].function.parameters.properties.a.not",
        "not",
    ),
    "no such tool": ({"tool_choice": named("x")}, "tool_choice", "no tool 'x'"),
    "no such word": ({"tool_choice": "any"}, "tool_choice", "must be"),
    "nothing to choose": ({"tools": [], "tool_choice": "required"}, "tool_choice", "no tools"),
    "a result without a call": ({"messages": [*ASK, RESULT]}, "messages[1].tool_call_id", "no message before it"),
    "a result of another call": (
        {"messages": [*CALLED, {**RESULT, "tool_call_id": "b"}]},
        "messages[2].tool_call_id",
        "which are a1",
    ),
    "arguments that are no JSON": (
        {"messages": with_arguments("{a")},
        "messages[1].tool_calls[0].function.arguments",
        "the JSON of an object",
    ),
    "arguments that are no object": (
        {"messages": with_arguments("[1]")},
        "messages[1].tool_calls[0].function.arguments",
        "the JSON of an object",
    ),
    "arguments that are not Unicode": (
        {
            "messages": [
                *ASK,
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '"\ud800"'}}]},
            ]
        },
        "messages[1].tool_calls[0].function.arguments",
        "not UTF-8",
    ),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        None,
        "",
    ),
    "the old name": ({"functions": [{"name": "f"}]}, "functions", "old name of tools"),
    "thinking of a model that does not": ({"reasoning_effort": "high"}, None, "reasoning_effort"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_refused_by_its_path(http, name):
    more, param, message = BAD[name]
    body = json.dumps({"messages": ASK, "tools": TOOLS, "max_tokens": 2, **more})
    answer = http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    error = check_error(answer, 400)
    assert message in error["message"]
    if param is not None:
        assert error["param"] == param


THINKS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.reasoning_content }}{{ message.content }}"
    "<|im_end|>\n{% endfor %}<|im_start|>assistant\n{{ '<think>\n' if enable_thinking is not false else "
    "'<think></think>' }}"
)


@pytest.fixture(scope="module")
def thinker(real_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("thinker")
    (folder / "thinks.jinja").write_text(THINKS)
    arguments = (
        real_model,
        "--chat-template",
        folder / "thinks.jinja",
        "--max-model-len",
        "1024",
        "--max-num-seqs",
        "8",
    )
    running = Server(folder / "log", *arguments, environment={"OCTAVO_NUM_THREADS": "1"})
    try:
        yield running.wait()
    finally:
        running.stop()


def ask(server, **more):
    with server.client() as client:
        body = {"messages": ASK, "max_tokens": 12, "temperature": 0, **more}
        return client.post("/v1/chat/completions", json=body).raise_for_status().json()


def test_thinking_is_told_under_both_names_and_counted(thinker):
    answer = ask(thinker)
    message = answer["choices"][0]["message"]
    assert message["reasoning"] == message["reasoning_content"] != ""
    assert message["content"] == ""
    assert (
        answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == answer["usage"]["completion_tokens"] == 12
    )
    assert "thinks as think" in thinker.read_log()


def test_thinking_can_be_left_out_and_switched_off(thinker):
    hidden = ask(thinker, include_reasoning=False)["choices"][0]["message"]
    assert "reasoning" not in hidden
    for more in (
        {"enable_thinking": False},
        {"reasoning_effort": "none"},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ):
        answer = ask(thinker, **more)
        assert answer["choices"][0]["message"]["content"]
        assert "reasoning" not in answer["choices"][0]["message"]
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


def test_thinking_is_streamed(thinker):
    with thinker.client() as client:
        body = {"messages": ASK, "max_tokens": 12, "temperature": 0, "stream": True}
        lines = client.post("/v1/chat/completions", json=body).text.splitlines()
    deltas = [
        json.loads(line[6:])["choices"][0]["delta"]
        for line in lines
        if line.startswith("data: ") and "[DONE]" not in line
    ]
    thought = "".join(delta.get("reasoning", "") for delta in deltas)
    assert thought == "".join(delta.get("reasoning_content", "") for delta in deltas)
    assert thought == ask(thinker)["choices"][0]["message"]["reasoning"]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_earlier_thinking_goes_to_the_template_under_either_name(thinker, name):
    history = [{"role": "assistant", "content": "Hi.", name: "Let me greet."}, *ASK]
    with thinker.client() as client:
        tokens = client.post("/tokenize", json={"messages": history}).raise_for_status().json()["tokens"]
        assert "Let me greet." in client.post("/detokenize", json={"tokens": tokens}).json()["prompt"]


@pytest.mark.parametrize("more", [{}, {"logprobs": True}, {"temperature": 1, "seed": 1}])
def test_thinking_is_ended_when_its_budget_is_used_up(thinker, more):
    answer = ask(thinker, thinking_token_budget=5, max_tokens=40, ignore_eos=True, **more)
    message, details = answer["choices"][0]["message"], answer["usage"]["completion_tokens_details"]
    assert message["reasoning"]
    assert message["content"]
    assert 5 < details["reasoning_tokens"] <= 10  # with its mark, which is several tokens of this model
    none = ask(thinker, thinking_token_budget=0, **more)
    assert "reasoning" not in none["choices"][0]["message"]


def test_structure_begins_after_thinking(thinker):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": CITY}}
    options = {"thinking_token_budget": 3, "max_tokens": 100}
    message = ask(thinker, response_format=form, **options)["choices"][0]["message"]
    assert message["reasoning"]
    jsonschema.validate(json.loads(message["content"]), CITY)
    (call,) = ask(thinker, tools=TOOLS, tool_choice=named("add"), parallel_tool_calls=False, **options)["choices"][0][
        "message"
    ]["tool_calls"]
    jsonschema.validate(json.loads(call["function"]["arguments"]), SUM)


def test_a_budget_of_a_model_that_does_not_think_is_refused(http):
    answer = http.post("/v1/chat/completions", json={"messages": ASK, "thinking_token_budget": 5})
    assert check_error(answer, 400)["param"] == "thinking_token_budget"


def test_an_unknown_parser_is_refused_at_start(start, tiny_model):
    server = start(tiny_model, "--tool-call-parser", "hermess", wait=None)
    assert server.process.wait(60) == 2
    assert "did you mean hermes" in server.read_log()
