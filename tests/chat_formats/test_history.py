"""Earlier calls, their results and earlier thinking, as templates of each family take them."""

import json

import pytest

from chat_formats.written import FORMATS, TOOLS
from octavo.chat_formats.history import prepared
from octavo.errors import ParameterError

ASKED = {"role": "user", "content": "How is the weather?"}
TOLD = [{"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in TOOLS.items()]


def called(id="call_1", arguments='{"city": "Paris"}', **more):
    call = {"id": id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call], **more}


def result(id="call_1"):
    return {"role": "tool", "content": "Sunny.", "tool_call_id": id}


def prepare(name, *messages, tools=TOLD, template="{{ system }}"):
    return prepared([ASKED, *messages], tools, FORMATS[name], template)


def test_arguments_are_objects_but_for_templates_that_want_their_text():
    for arguments in ('{"city": "Paris"}', {"city": "Paris"}):
        chat, tools = prepare("hermes", called(arguments=arguments), result())
        assert chat[1]["tool_calls"][0]["function"]["arguments"] == {"city": "Paris"}
        assert tools == TOLD
        chat, _ = prepare("deepseek-v3", called(arguments=arguments), result())
        assert chat[1]["tool_calls"][0]["function"]["arguments"] == '{"city": "Paris"}'
    chat, _ = prepare("hermes", called(arguments=""), result())
    assert chat[1]["tool_calls"][0]["function"]["arguments"] == {}


def test_results_have_the_names_of_their_tools():
    chat, _ = prepare("hermes", called(), result())
    assert chat[2]["name"] == "get_weather"
    chat, _ = prepare("hermes", called(), {"role": "tool", "content": "Sunny."})
    assert chat[2]["name"] == "get_weather"


def test_ids_are_nine_letters_and_digits_for_mistral():
    chat, _ = prepare("mistral", called(), result())
    id = chat[1]["tool_calls"][0]["id"]
    assert (len(id), id.isalnum(), chat[2]["tool_call_id"]) == (9, True, id)
    chat, _ = prepare("mistral", called("abcDEF123"), result("abcDEF123"))
    assert chat[1]["tool_calls"][0]["id"] == chat[2]["tool_call_id"] == "abcDEF123"


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_earlier_thinking_has_both_names(name):
    chat, _ = prepare("hermes", {"role": "assistant", "content": "Fine.", name: "Hm."})
    assert chat[1]["reasoning"] == chat[1]["reasoning_content"] == "Hm."


def test_a_template_that_knows_no_tools_gets_them_as_text():
    results = [result("a"), result("b")]
    calls = [called(id)["tool_calls"][0] for id in ("a", "b")]
    chat, tools = prepare("generic", called(content="I look.", tool_calls=calls), *results)
    assert tools is None
    system, user, assistant, told = chat
    assert (system["role"], user) == ("system", ASKED)
    assert json.dumps(TOLD[0]["function"]) in system["content"]
    one = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    assert assistant == {"role": "assistant", "content": f"I look.\n{one}\n{one}"}
    response = "<tool_response>\nSunny.\n</tool_response>"
    assert told == {"role": "user", "content": f"{response}\n{response}"}


def test_tools_are_described_where_the_template_lets_them_be():
    system = {"role": "system", "content": "Be kind."}
    chat, _ = prepared([system, ASKED], TOLD, FORMATS["generic"], "{{ system }}")
    assert chat[0]["content"].startswith("Be kind.\n\nYou may call functions")
    chat, _ = prepared([ASKED], TOLD, FORMATS["generic"], "{{ user }}")
    assert [message["role"] for message in chat] == ["user"]
    assert prepared([ASKED], [], FORMATS["generic"], "{{ system }}") == ([ASKED], None)


@pytest.mark.parametrize(
    ("messages", "path"),
    [
        ([result()], "messages[1].tool_call_id"),
        ([called(), result("other")], "messages[2].tool_call_id"),
        ([called(arguments="{")], "messages[1].tool_calls[0].function.arguments"),
        ([called(arguments="[]")], "messages[1].tool_calls[0].function.arguments"),
        ([called(arguments='{"a": 1, "a": 2}')], "messages[1].tool_calls[0].function.arguments"),
        ([called(arguments='"\ud800"')], "messages[1].tool_calls[0].function.arguments"),
        ([called(arguments="[" * 100_000)], "messages[1].tool_calls[0].function.arguments"),
        ([called(tool_calls=["x"])], "messages[1].tool_calls[0]"),
    ],
)
def test_what_is_wrong_is_told_by_its_path(messages, path):
    with pytest.raises(ParameterError) as error:
        prepare("hermes", *messages)
    assert error.value.name == path
