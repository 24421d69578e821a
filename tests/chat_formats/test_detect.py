"""Formats are found by the marks that a chat template writes, or by vLLM's names of them."""

from types import SimpleNamespace

import pytest

from octavo.chat_formats.detect import find_calls, find_thinking
from octavo.chat_formats.format import ChatFormat
from octavo.errors import ConfigError
from octavo.text.chat import ChatPrompt
from octavo.text.chat_template import ChatTemplate

TOOLS = "{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
CALL = "{% for call in message.tool_calls %}{{ MARKS }}{% endfor %}"
# What the templates of families write around calls.
TEMPLATES = {
    "hermes": "'<tool_call>\\n{\"name\": \"' + call.name + '\", \"arguments\": ' + args + '}\\n</tool_call>'",
    "qwen3-coder": "'<tool_call>\\n<function=' + call.name + '>\\n<parameter=' + key + '>'",
    "llama-3": "'<|python_tag|>' + call.name",
    "llama-4": "'<|python_start|>[' + call.name + '('",
    "mistral": "'[TOOL_CALLS]' + call.name + '[ARGS]' + args",
    "mistral-v3": "'[TOOL_CALLS] [' + (call | tojson) + ']'",
    "granite-3": "'<|start_of_role|>assistant<|end_of_role|><|tool_call|>' + args",
    "granite-20b-fc": "'<function_call> ' + args",
    "deepseek-v3": "'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>' + call.name + '\\n```json\\n'",
    "deepseek-v3.1": "'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + call.name + '<｜tool▁sep｜>'",
    "glm-4.5": "'<tool_call>' + call.name + '\\n<arg_key>' + key + '</arg_key>\\n<arg_value>'",
    "kimi-k2": "'<|tool_calls_section_begin|><|tool_call_begin|>' + call.id",
    "harmony": "'<|channel|>commentary to=functions.' + call.name + '<|message|>'",
    "phi-4-mini": "'<|tool|>' + args + '<|/tool|>'",
    "command-r7b": "'<|START_ACTION|>[' + args + ']<|END_ACTION|>'",
    "internlm": "'<|action_start|><|plugin|>' + args",
    "minimax-m2": "'<minimax:tool_call>\\n<invoke name=\"'",
    "seed-oss": "'<seed:tool_call>\\n<function='",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_says_how_its_model_calls_tools(name):
    assert find_calls(TOOLS + CALL.replace("MARKS", TEMPLATES[name])).name == name


def test_a_template_that_knows_tools_and_has_no_known_marks_is_taken_for_hermes_and_another_is_prompted():
    assert find_calls(TOOLS).name == "hermes"
    assert find_calls("{% for message in messages %}{{ message.content }}{% endfor %}").name == "generic"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("{{ '<think>\\n' if enable_thinking }}", None),
        ("{{ content.split('</think>')[-1] }}", "think"),
        ("<seed:think></seed:think>", "seed"),
        ("[THINK][/THINK]", "mistral"),
        ("<|START_THINKING|><|END_THINKING|>", "command"),
        ("<|start|>assistant<|channel|>analysis<|message|>", "harmony"),
        ("<|user|>{{ content }}<|end|>", None),
    ],
)
def test_a_template_says_how_its_model_thinks(source, name):
    found = find_thinking(source)
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("parser", "name"),
    [
        *(("hermes", "hermes"), ("qwen3_coder", "qwen3-coder"), ("llama3_json", "llama-3"), ("pythonic", "pythonic")),
        *(("mistral", "mistral"), ("granite-20b-fc", "granite-20b-fc"), ("openai", "harmony"), ("xlam", "xlam")),
        *(("deepseek_v31", "deepseek-v3.1"), ("glm45", "glm-4.5"), ("kimi_k2", "kimi-k2"), ("jamba", "jamba")),
    ],
)
def test_the_user_may_say_it_by_the_name_that_vllm_has(parser, name):
    assert find_calls(TOOLS + TEMPLATES["hermes"], parser).name == name


def test_a_name_of_several_formats_is_the_one_that_the_template_writes():
    assert find_calls(TOOLS + TEMPLATES["mistral-v3"], "mistral").name == "mistral-v3"
    assert find_calls(TOOLS, "mistral").name == "mistral"


def test_a_template_that_tells_of_no_tools_is_prompted_in_the_form_of_hermes_and_no_other():
    assert find_calls("{{ messages }}", "hermes").name == "generic"
    with pytest.raises(ConfigError, match=r"tool_call_parser='mistral': the chat template tells of no tools"):
        find_calls("{{ messages }}", "mistral")


def test_an_unknown_name_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match=r"tool_call_parser='hermess': must be one of .*; did you mean hermes\?"):
        find_calls("", "hermess")
    with pytest.raises(ConfigError, match=r"reasoning_parser='r1': must be one of qwen3, .*deepseek_r1"):
        find_thinking("", "r1")


SWITCHED = "{{ messages[0].content }}{{ '<think>\\n' if enable_thinking is not false else '<think></think>' }}"


class Renderer:
    """A ChatEncoder that renders, and makes no tokens."""

    tokenizer = SimpleNamespace(added_tokens={})
    template = ChatTemplate(SWITCHED)

    def encode(self, messages, tools, template_kwargs):
        return ChatPrompt(self.template.render(messages, tools=tools, **template_kwargs), [])


def test_a_prompt_says_whether_the_answer_begins_inside_of_thinking():
    chat = ChatFormat.of(Renderer())
    ask = [{"role": "user", "content": "Hi"}]
    assert chat.thinks(chat.encode(ask).text) is True
    assert chat.thinks(chat.encode(ask, enable_thinking=False).text) is False
    assert chat.thinks(chat.encode(ask, effort="none").text) is False
    assert chat.thinks(chat.encode(ask, effort="high").text) is True
    assert chat.thinks("Hi") is None
