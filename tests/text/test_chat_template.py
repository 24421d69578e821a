from __future__ import annotations

import itertools
import json
import time
from typing import Any

import pytest

from octavo.errors import ChatTemplateError
from octavo.text import template_limits
from octavo.text.chat_template import ChatTemplate

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

# The usual styles, written for these tests.
CHATML = """
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
LLAMA2 = """
{% if messages[0]['role'] == 'system' %}
    {% set turns = messages[1:] %}
    {% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
{% else %}
    {% set turns = messages %}
    {% set system = '' %}
{% endif %}
{% for turn in turns %}
    {% if (turn.role == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {% endif %}
    {% if turn.role == 'user' %}
        {{ bos_token + '[INST] ' + (system if loop.first else '') + turn.content.strip() + ' [/INST]' }}
    {% else %}
        {{ ' ' + turn.content.strip() + ' ' + eos_token }}
    {% endif %}
{% endfor %}
"""
LLAMA3 = """
{{- bos_token }}
{%- if date_string is not defined %}{% set date_string = '26 Jul 2024' %}{% endif %}
{%- if tools is not none %}{{- 'Tools: ' + (tools | tojson(indent=4)) + date_string + '\\n\\n' }}{% endif %}
{%- for message in messages %}
    {{- '<|start_header_id|>' ~ message['role'] ~ '<|end_header_id|>\\n\\n' }}
    {%- generation %}{{- message['content'] | trim }}{% endgeneration %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
MISTRAL = """
{%- set ns = namespace(seen=0) -%}
{{ bos_token }}
{%- for message in messages -%}
    {%- if message.role == 'system' -%}{% continue %}{%- endif -%}
    {%- set ns.seen = ns.seen + 1 -%}
    {%- if message['role'] == 'user' -%}
        {%- if loop.last and messages | selectattr('role', 'equalto', 'system') | list | length -%}
            {{- '[INST] ' + messages[0].content + '\\n\\n' + message['content'] + '[/INST]' -}}
        {%- else -%}
            {{- '[INST] ' ~ message.content ~ '[/INST]' -}}
        {%- endif -%}
    {%- elif message.tool_calls is defined -%}
        {{- '[TOOL_CALLS]' ~ message.tool_calls | tojson ~ eos_token -}}
    {%- else -%}
        {{- ' ' + message.content + eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""
ZEPHYR = """
{% for message in messages %}
{% if message['role'] in ['user', 'system', 'assistant'] %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""
GEMMA = """
{%- macro turn(role, text) -%}
<start_of_turn>{{ role }}
{{ text | trim }}<end_of_turn>
{% endmacro -%}
{{ bos_token }}
{%- for message in messages -%}
    {%- set role = {'assistant': 'model'}.get(message.role, message.role) -%}
    {{ turn(role, message.content) }}
{%- endfor -%}
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}
"""
STYLES = {
    "chatml": CHATML,
    "llama2": LLAMA2,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "zephyr": ZEPHYR,
    "gemma": GEMMA,
}
TOOL = {"type": "function", "function": {"name": "get_<b>", "parameters": {"größe": [1, 2.5, None, True]}}}
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hello & <b>welcome</b> 'you' \"there\" 日本"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "  What is 1+1?\n"},
        {"role": "assistant", "content": "2 "},
        {"role": "user", "content": "{{ 7 * 7 }} {% raw %}"},
    ],
    [
        {"role": "user", "content": "Call it."},
        {
            "role": "assistant",
            "content": "calling",
            "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}],
        },
    ],
]
USER = [{"role": "user", "content": "Hi"}]


def reference(source: str, messages: Any, **kwargs: Any) -> str:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    tools = kwargs.pop("tools", None)
    variables = SPECIAL | kwargs
    prompts, _ = utils.render_jinja_template([messages], tools=tools, chat_template=source, **variables)
    prompt: str = prompts[0]
    return prompt


def render(source: str, messages: Any = USER, **kwargs: Any) -> str:
    return ChatTemplate(source, SPECIAL).render(messages, **kwargs)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("messages", CHATS)
@pytest.mark.parametrize("tools", [None, [TOOL]])
@pytest.mark.parametrize("generate", [True, False])
def test_a_prompt_is_as_transformers_renders_it(
    style: str, messages: list[dict[str, Any]], tools: Any, generate: bool
) -> None:
    kwargs: dict[str, Any] = {"tools": tools, "add_generation_prompt": generate, "date_string": "today"}
    assert render(STYLES[style], messages, **kwargs) == reference(STYLES[style], messages, **kwargs)


@pytest.mark.parametrize("style", ["chatml", "llama2", "llama3", "zephyr", "gemma"])
@pytest.mark.parametrize("content", ["The answer is", "The answer is ", "so: \n"])
def test_a_continued_message_stays_open_as_in_transformers(style: str, content: str) -> None:
    chat = [*USER, {"role": "assistant", "content": content}]
    kwargs: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False}
    prompt = render(STYLES[style], chat, **kwargs)
    assert prompt == reference(STYLES[style], chat, **kwargs)
    assert prompt.rstrip().endswith(content.strip())


def test_smollm_is_rendered_as_by_transformers(smollm: Any, smollm_dir: Any) -> None:
    transformers = pytest.importorskip("transformers")
    expected = transformers.PreTrainedTokenizerFast.from_pretrained(smollm_dir)
    template = ChatTemplate(smollm.chat_template, smollm.special_tokens_map)
    for chat in CHATS:
        for generate in (True, False):
            prompt = expected.apply_chat_template(chat, tokenize=False, add_generation_prompt=generate)
            assert template.render(chat, add_generation_prompt=generate) == prompt


def test_helpers_of_hugging_face_templates_are_there() -> None:
    assert render("{{ 'é<&>' | tojson }}") == '"é<&>"'
    assert render("{{ {'b': 1, 'a': [2]} | tojson(indent=2, sort_keys=True) }}") == json.dumps(
        {"a": [2], "b": 1}, indent=2
    )
    assert len(render("{{ strftime_now('%Y-%m-%d') }}")) == 10
    assert render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"
    assert render("{% for x in [1, 2, 3] %}{{ loop.index }}/{{ loop.length }}{{ loop.last }} {% endfor %}") == (
        "1/3False 2/3False 3/3True "
    )
    assert render("{{ documents }}{{ x.y }}", documents=[{"title": "t"}], x={"y": 1}) == "[{'title': 't'}]1"
    assert render("{{ 'a-b' | replace('-', '+') }}{{ ['a', 1] | join(',') }}{{ '%s!' | format('x') }}") == "a+ba,1x!"


def test_parts_of_text_are_joined_by_newlines() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert render("{{ messages[0].content }}", [{"role": "user", "content": parts}]) == "one\ntwo"


def test_the_developer_role_is_system_unless_the_template_has_it() -> None:
    chat = [{"role": "developer", "content": "x"}]
    assert render("{{ messages[0].role }}", chat) == "system"
    assert render("{# developer #}{{ messages[0].role }}", chat) == "developer"


def test_keys_without_a_value_are_dropped() -> None:
    chat = [{"role": "assistant", "content": None, "tool_calls": []}]
    assert render("{{ messages[0].content is defined }}{{ messages[0].tool_calls }}", chat) == "False[]"


def test_the_callers_messages_are_not_changed() -> None:
    chat = [{"role": "developer", "content": [{"type": "text", "text": "x"}]}]
    render("x", chat)
    assert chat == [{"role": "developer", "content": [{"type": "text", "text": "x"}]}]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "non-empty list"),
        ("Hello", "non-empty list"),
        (None, "non-empty list"),
        (["Hello"], r"messages\[0\] must be an object"),
        ([{"content": "x"}], r"messages\[0\]\.role must be a string"),
        ([*USER, {"role": 3}], r"messages\[1\]\.role must be a string"),
        ([{"role": "user", "content": 3}], r"messages\[0\]\.content must be"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "'image_url'"),
        ([{"role": "user", "content": [{"type": "text"}]}], r"content\[0\]\.text must be a string"),
        ([{"role": "user", "content": ["x"]}], r"content\[0\] is of type 'None'"),
        ([{"role": "user", "content": "x", "name": object()}], "object, which is not JSON"),
        ([{"role": "user", 3: "x"}], "not JSON"),
    ],
)
def test_malformed_messages_are_refused_with_their_place(messages: Any, reason: str) -> None:
    with pytest.raises(ChatTemplateError, match=reason):
        render("x", messages)


def test_messages_nested_without_end_are_refused() -> None:
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(ChatTemplateError, match="64 deep"):
        render("x", [{"role": "user", "content": "x", "extra": deep}])


@pytest.mark.parametrize("name", ["tokenize", "chat_template", "bos_token", "raise_exception", "range", "_x"])
def test_reserved_variables_are_refused(name: str) -> None:
    with pytest.raises(ChatTemplateError, match=f"'{name}' is reserved"):
        render("x", **{name: True})


def test_a_model_without_a_template_says_what_to_do() -> None:
    with pytest.raises(ChatTemplateError, match=r"chat_template= .*--chat-template FILE.*--no-chat"):
        ChatTemplate(None).render(USER)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% if %}", "malformed"),
        ("{{ raise_exception('only\nuser') }}", "only user"),
        ("{{ messages[0].nothing.at_all }}", "failed"),
        ("{{ 1 / 0 }}", "division"),
        ("{% for x in 3 %}{% endfor %}", "failed"),
        ("x" * (1 << 18) + "y", "more than 262144 characters"),
        ("{{x}}" * 6000, "more than 16384 tokens of code"),
        ("{{" + "(" * 9999 + "1" + ")" * 9999 + "}}", "malformed"),
    ],
)
def test_a_failing_template_is_one_line(source: str, reason: str) -> None:
    with pytest.raises(ChatTemplateError, match=reason) as raised:
        render(source)
    assert "\n" not in str(raised.value)


def test_continuing_needs_something_to_continue() -> None:
    with pytest.raises(ChatTemplateError, match="add_generation_prompt=False"):
        render(CHATML, continue_final_message=True)
    with pytest.raises(ChatTemplateError, match="no content"):
        render("x", [{"role": "assistant"}], continue_final_message=True, add_generation_prompt=False)
    with pytest.raises(ChatTemplateError, match="drops"):
        render("x", continue_final_message=True, add_generation_prompt=False)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{{ (messages | map(attribute='__class__') | list)[0].mro() }}",
        "{% import 'os' as os %}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_cannot_leave_the_sandbox(source: str) -> None:
    with pytest.raises(ChatTemplateError):
        render(source)


def repeat(expression: str) -> str:
    """`x` becomes the expression, sixty times over."""
    return (
        "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(60) %}{% set ns.x = " + expression + " %}{% endfor %}"
    )


BEYOND_A_LIMIT = "more than|above|at most|wider|recursion|No filter|undefined|namespace|takes numbers"


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(100) }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{{ 'x' * 1000000000 }}",
        "{{ [1] * 1000000000 }}",
        "{{ 9 ** 99999999 }}",
        "{{ 99999 ** 99999 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ 'x'.ljust(1000000000) }}",
        "{{ 'x' | center(1000000000) }}",
        "{{ 'x\n' | indent(1000000000) }}",
        "{{ [1] | batch(1000000000, 'x') | list }}",
        "{{ [1] | tojson(indent=1000000000) }}",
        repeat("ns.x ~ ns.x"),
        repeat("ns.x + ns.x"),
        repeat("ns.x.replace('x', ns.x)"),
        repeat("ns.x | replace('x', ns.x)"),
        repeat("(ns.x, ns.x) | join"),
        repeat("''.join([ns.x, ns.x])"),
        repeat("'%s%s' % (ns.x, ns.x)"),
        repeat("'{0}{0}'.format(ns.x)"),
        repeat("[ns.x, ns.x]") + "{{ ns.x }}",
        repeat("[ns.x] * 2") + "{{ ns.x | tojson }}",
        repeat("[ns.x, ns.x]") + "{{ ns.x | string | length }}",
        repeat("[ns.x, ns.x]") + "{% set y = ns.x %}" + repeat("[ns.x, ns.x]") + "{{ y == ns.x }}",
        "{% set ns = namespace(x='xx') %}{% for i in range(60) %}"
        "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
        "{% set x = 'x' * 99999 %}{% for i in range(99999) %}{{ x }}{% endfor %}",
        "{% set x = 'x' * 99999 %}{% set y %}{% for i in range(99999) %}{{ x }}{% endfor %}{% endset %}",
        "{% for i in range(90000) %}{{ range(90000) | list | length }}{% endfor %}",
        "{{ lipsum(99999) }}",
        "{{ ('%999d' * 800) % ((1,) * 800) }}",
        "{{ '{:{}}'.format('x', 99999) }}",
        "{{ '{:{w}}'.format('x', w='100000000') }}",
        "{{ ('x\n' * 9999) | indent(99999) }}",
        "{{ ([messages] * 9999) | tojson(indent=64) }}",
        "{% set ns = namespace(x=[1]) %}"
        "{% for i in range(9) %}{% set ns.x = ([ns.x] * 99) | sum(start=[]) %}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% set t = 'x' * 99999 %}"
        "{% for i in range(99999) %}{% set ns.x = ns.x + [t ~ i] %}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% set t = 'x ' * 9999 %}"
        "{% for i in range(99999) %}{% set ns.x = ns.x + [t.split()] %}{% endfor %}",
        "{{ ('<!---->' * 99999) | striptags }}",
        "{{ ('x' * 99999) | wordwrap(1) }}",
        "{{ ('a' * 99999).rfind('b' + 'a' * 50000) }}",
        "{{ ('a' * 99999).strip('b' * 50000 + 'a') }}",
        "{{ ('a' * 99999) | trim('b' * 50000 + 'a') }}",
        repeat("(ns.x, ns.x)") + "{{ {ns.x: 1} }}",
        repeat("(ns.x, ns.x)") + "{{ {}[ns.x] }}",
        repeat("(ns.x, ns.x)") + "{{ {}.get(ns.x) }}",
        repeat("(ns.x, ns.x)") + "{{ {}.keys() - [ns.x] }}",
        repeat("(ns.x, ns.x)") + "{{ ns.x is in({}) }}",
        repeat("[ns.x, ns.x]") + "{{ ns.x | upper }}",
        repeat("[ns.x, ns.x]") + "{{ ns.x is upper }}",
        repeat("[ns.x, ns.x]") + "{{ ns }}",
        repeat("[ns.x, ns.x]") + "{{ {'a': ns.x}.values() }}",
        repeat("[ns.x, ns.x]") + "{{ raise_exception(ns.x) }}",
        "{% set ns = namespace(t=()) %}{% for i in range(99999) %}{% set ns.t = (ns.t,) %}{% endfor %}{{ {ns.t: 1} }}",
        "{% set x = [1] * 9999 %}{% set y = [1] * 9999 + [2] %}{{ x in [y] * 99999 }}",
        "{% set x = [1] * 9999 %}{% set y = [1] * 9999 + [2] %}{{ x in ([y] * 99999) | map('default') }}",
        "{% set x = [[1] * 9999 + [2]] * 99999 %}{{ x | map('list') | unique | list }}",
        "{{ (range(99999) | list)" + " | map('default')" * 99 + " | list | length }}",
    ],
)
def test_a_bomb_is_refused(source: str) -> None:
    with pytest.raises(ChatTemplateError, match=BEYOND_A_LIMIT):
        render(source)


@pytest.mark.parametrize(
    "work",
    ["{% endfor %}", "x{% endfor %}", "{{ '%s' % 'x' * 9 }}{% endfor %}", "{% set y = 'x'.upper() %}{% endfor %}"],
)
def test_a_template_ends_when_its_time_is_over(work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it does; the clock here goes on by 0.1 s whenever it is looked at."""
    ticks = itertools.count()
    monkeypatch.setattr(template_limits, "clock", lambda: next(ticks) / 10)
    with pytest.raises(ChatTemplateError, match="more than 1 s"):
        render("{% for i in range(99999) %}" + work)
    assert next(ticks) < 20


def test_constants_wait_for_the_rendering() -> None:
    """Trying to fold such chains while compiling takes time that grows with the square of their length."""
    begin = time.thread_time()
    render(("{{ 'a'" + "|upper" * 150 + " }}") * 40)
    assert time.thread_time() - begin < 5


def test_formats_of_usual_widths_are_allowed() -> None:
    assert render("{{ '%05.1f|%-4s|%d%%' % (2.25, 'x', 100) }}{{ '{:>4}{{}}'.format(7) }}") == "002.2|x   |100%   7{}"


def test_format_does_not_reach_attributes() -> None:
    assert render("{{ '{0.__class__}|{0}'.format('x') }}") == "|x"


def test_the_limits_grow_with_the_input() -> None:
    text = "long " * 400_000
    assert render("{{ messages[0].content }}|{{ messages[0].content }}", [{"role": "user", "content": text}]) == (
        f"{text}|{text}"
    )


def test_a_long_conversation_is_within_the_limits() -> None:
    chat = [{"role": role, "content": "x"} for role in ("user", "assistant")] * 3000
    assert render(LLAMA3, chat).count("<|eot_id|>") == 6000
