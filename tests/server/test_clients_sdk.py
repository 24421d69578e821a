"""The clients of the three APIs on their usual tours: OpenAI's, Anthropic's, Ollama's. The last two may be missing."""

from typing import Literal

import pytest
from pydantic import BaseModel

from .conftest import MODEL

QUESTION = "Name the capital of France."
ANSWER = "The capital of France is Paris."
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


class City(BaseModel):
    city: Literal["Paris", "Rome"]


def test_openai_calls_a_tool_and_reads_its_result_in_chats(ai):
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA, "strict": True}}]
    messages = [{"role": "user", "content": "How is the weather in Paris?"}]
    options = {"model": MODEL, "tools": tools, "temperature": 0, "max_tokens": 60}
    choice = {"type": "function", "function": {"name": "get_weather"}}
    called = ai.chat.completions.create(messages=messages, tool_choice=choice, parallel_tool_calls=False, **options)
    assert called.choices[0].finish_reason == "tool_calls"
    (call,) = called.choices[0].message.tool_calls
    City.model_validate_json(call.function.arguments)
    messages += [called.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "Sunny"}]
    answered = ai.chat.completions.create(messages=messages, tool_choice="none", **options)
    assert answered.choices[0].message.content
    assert answered.choices[0].message.tool_calls is None


@pytest.mark.parametrize("stream", [False, True])
def test_openai_calls_a_tool_and_reads_its_result_in_responses(ai, stream):
    tools = [{"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": True}]
    options = {"model": MODEL, "tools": tools, "temperature": 0, "max_output_tokens": 60}
    asked = {"input": "How is the weather in Paris?", "tool_choice": "required", "parallel_tool_calls": False}
    if stream:
        events = list(ai.responses.create(**asked, **options, stream=True))
        deltas = [event for event in events if event.type == "response.function_call_arguments.delta"]
        (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
        assert "".join(event.delta for event in deltas) == done.arguments
        assert done.name == "get_weather"
        response = events[-1].response
        assert {event.item_id for event in [*deltas, done]} == {response.output[0].id}
    else:
        response = ai.responses.create(**asked, **options)
    (call,) = response.output
    assert (call.type, call.name, call.status) == ("function_call", "get_weather", "completed")
    City.model_validate_json(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"}
    answered = ai.responses.create(input=[result], previous_response_id=response.id, tool_choice="none", **options)
    assert answered.output_text


def test_openai_parses_answers(ai):
    options = {"model": MODEL, "temperature": 0}
    messages = [{"role": "user", "content": QUESTION}]
    chat = ai.chat.completions.parse(messages=messages, response_format=City, max_tokens=40, **options)
    assert isinstance(chat.choices[0].message.parsed, City)
    response = ai.responses.parse(input=QUESTION, text_format=City, max_output_tokens=40, **options)
    assert isinstance(response.output_parsed, City)
    assert response.text.format.type == "json_schema"


@pytest.fixture
def claude(server):
    library = pytest.importorskip("anthropic")
    with library.Anthropic(base_url=server.url, api_key="EMPTY", max_retries=0) as client:
        yield client


ASKED = {"model": MODEL, "max_tokens": 60, "messages": [{"role": "user", "content": QUESTION}]}
GREEDY = {"extra_body": {"temperature": 0}}  # newer clients have no field for it


def test_anthropic_asks_and_streams(claude):
    message = claude.messages.create(**ASKED, **GREEDY)
    assert [block.text for block in message.content] == [ANSWER]
    assert message.stop_reason == "end_turn"
    with claude.messages.stream(**ASKED, **GREEDY) as stream:
        assert "".join(stream.text_stream) == ANSWER
        final = stream.get_final_message()
    assert final.content[0].text == ANSWER
    assert final.usage.output_tokens == message.usage.output_tokens
    counted = claude.messages.count_tokens(model=MODEL, messages=ASKED["messages"])
    assert counted.input_tokens == message.usage.input_tokens + message.usage.cache_read_input_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_calls_a_tool_and_reads_its_result(claude, stream):
    tools = [{"name": "get_weather", "description": "The weather", "input_schema": SCHEMA}]
    choice = {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}
    asked = {**ASKED, "tools": tools, "tool_choice": choice, **GREEDY}
    if stream:
        with claude.messages.stream(**asked) as events:
            message = events.get_final_message()
    else:
        message = claude.messages.create(**asked)
    assert message.stop_reason == "tool_use"
    (call,) = [block for block in message.content if block.type == "tool_use"]
    City.model_validate(call.input)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny"}
    history = [*ASKED["messages"], message.to_param() if hasattr(message, "to_param") else message]
    asked = {**asked, "tool_choice": {"type": "none"}, "messages": [*history, {"role": "user", "content": [result]}]}
    assert claude.messages.create(**asked).stop_reason in ("end_turn", "max_tokens")


def test_anthropic_parses_answers(claude):
    if not hasattr(claude.messages, "parse"):
        pytest.skip("an older client")
    assert isinstance(claude.messages.parse(**ASKED, output_format=City, **GREEDY).parsed_output, City)


def test_anthropic_raises_errors_of_their_kinds(claude):
    import anthropic

    with pytest.raises(anthropic.NotFoundError, match="does not exist") as error:
        claude.messages.create(**{**ASKED, "model": "claude"})
    assert error.value.request_id
    with pytest.raises(anthropic.BadRequestError, match="max_tokens: must be at least 1"):
        claude.messages.create(**{**ASKED, "max_tokens": 0})


@pytest.fixture
def llama(server):
    library = pytest.importorskip("ollama")
    client = library.Client(host=server.url, trust_env=False)
    yield client
    client._client.close()


OPTIONS = {"temperature": 0, "num_predict": 60}
CHAT = {"model": MODEL, "messages": ASKED["messages"], "options": OPTIONS}


def test_ollama_chats_and_generates(llama):
    assert llama.chat(**CHAT).message.content == ANSWER
    *parts, last = llama.chat(**CHAT, stream=True)
    assert "".join(part.message.content for part in parts) == ANSWER
    assert last.done
    assert llama.generate(MODEL, QUESTION, options=OPTIONS).response == ANSWER
    assert "".join(part.response for part in llama.generate(MODEL, QUESTION, options=OPTIONS, stream=True)) == ANSWER


def test_ollama_lists_shows_and_pulls_models(llama):
    import ollama

    assert [model.model for model in llama.list().models] == [MODEL]
    assert [model.context_length for model in llama.ps().models] == [2048]
    assert "tools" in llama.show(MODEL).capabilities
    assert llama.pull(MODEL).status == "success"
    assert [part.status for part in llama.pull(MODEL, stream=True)][-1] == "success"
    for ask in (llama.pull, llama.show, llama.generate):
        with pytest.raises(ollama.ResponseError, match="The model 'other' does not exist") as error:
            ask("other")
        assert error.value.status_code == 404


def test_ollama_reads_json_of_a_schema(llama):
    found = llama.chat(**CHAT, format=City.model_json_schema()).message.content
    City.model_validate_json(found)
    assert llama.generate(MODEL, "A city as JSON", format="json", options=OPTIONS).response.startswith("{")


@pytest.mark.parametrize("stream", [False, True])
def test_ollama_gives_tools(llama, stream):
    def get_weather(city: str) -> str:
        """The weather.

        Args:
          city: where
        """

    answer = llama.chat(**CHAT, tools=[get_weather], stream=stream)
    parts = list(answer) if stream else [answer]
    assert parts[-1].done
    for call in [call for part in parts for call in part.message.tool_calls or ()]:
        assert call.function.name == "get_weather"
        assert set(call.function.arguments) == {"city"}
    history = [
        *CHAT["messages"],
        {"role": "assistant", "tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}]},
        {"role": "tool", "tool_name": "get_weather", "content": "Sunny"},
    ]
    assert llama.chat(MODEL, messages=history, tools=[get_weather], options=OPTIONS).done


def test_ollama_embeds(pooling_server):
    library = pytest.importorskip("ollama")
    client = library.Client(host=pooling_server.url, trust_env=False)
    found = client.embed("words", ["some words", "others"])
    assert len(found.embeddings) == 2
    assert client.embeddings("words", "others").embedding == pytest.approx(found.embeddings[1], abs=1e-6)
    client._client.close()
