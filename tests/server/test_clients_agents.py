"""Libraries that agents are built with, each on its usual tour. Those that are not installed are skipped."""

import asyncio
import gc
from typing import Literal

import httpx
import openai
import pytest
from pydantic import BaseModel

from .conftest import MODEL

QUESTION = "Name the capital of France."
ANSWER = "The capital of France is Paris."
MESSAGES = [{"role": "user", "content": QUESTION}]


# Some libraries leave loops and connections open.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def no_garbage():
    """What is left open is found here, and not in a later test."""
    yield
    gc.collect()


class City(BaseModel):
    """A city."""

    name: Literal["Paris", "Rome"]


@pytest.fixture
def http_client():
    """For libraries that do not close their own."""
    with httpx.Client(trust_env=False) as client:
        yield client


def with_client(server, use):
    """What `use` makes of an asynchronous client of OpenAI's, on a loop of its own."""

    async def run():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="EMPTY", max_retries=0) as client:
            return await use(client)

    return asyncio.run(run())


@pytest.fixture
def litellm(monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or it is fetched
    return pytest.importorskip("litellm")


@pytest.fixture
def providers(server):
    """What LiteLLM is told for each of the three APIs."""
    return {
        "openai": {"model": f"openai/{MODEL}", "api_base": f"{server.url}/v1", "api_key": "EMPTY"},
        "anthropic": {"model": f"anthropic/{MODEL}", "api_base": server.url, "api_key": "EMPTY"},
        "ollama": {"model": f"ollama_chat/{MODEL}", "api_base": server.url},
    }


@pytest.mark.filterwarnings("ignore")  # of its many models, and of what it leaves open
@pytest.mark.parametrize("api", ["openai", "anthropic", "ollama"])
def test_litellm_asks_each_api(litellm, providers, api):
    options = {**providers[api], "messages": MESSAGES, "temperature": 0, "max_tokens": 20}
    answer = litellm.completion(**options)
    assert answer.choices[0].message.content == ANSWER
    assert answer.usage.completion_tokens == 8
    chunks = list(litellm.completion(**options, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_litellm_calls_a_tool(litellm, providers, api):
    function = {"name": "get_city", "parameters": City.model_json_schema()}
    tools = [{"type": "function", "function": function}]
    choice = {"type": "function", "function": {"name": "get_city"}}
    options = {**providers[api], "messages": MESSAGES, "tools": tools, "tool_choice": choice, "max_tokens": 60}
    answer = litellm.completion(**options, parallel_tool_calls=False, temperature=0)
    (call,) = answer.choices[0].message.tool_calls
    City.model_validate_json(call.function.arguments)
    assert answer.choices[0].finish_reason == "tool_calls"


@pytest.mark.filterwarnings("ignore")
def test_litellm_asks_for_responses_and_knows_errors(litellm, providers):
    response = litellm.responses(**providers["openai"], input=QUESTION, temperature=0, max_output_tokens=20)
    assert response.output[0].content[0].text == ANSWER
    with pytest.raises(litellm.BadRequestError, match="temperature: must be at least 0"):
        litellm.completion(**providers["openai"], messages=MESSAGES, temperature=-1)


@pytest.fixture
def langchain(server, http_client):
    library = pytest.importorskip("langchain_openai", exc_type=ImportError)
    options = {"base_url": f"{server.url}/v1", "api_key": "EMPTY", "model": MODEL, "temperature": 0, "max_tokens": 60}
    return lambda **more: library.ChatOpenAI(**options, http_client=http_client, max_retries=0, **more)


@pytest.mark.parametrize("responses", [False, True])
def test_langchain_asks_and_streams(langchain, responses):
    chat = langchain(use_responses_api=responses)
    assert chat.invoke(QUESTION).text == ANSWER
    assert "".join(chunk.text for chunk in chat.stream(QUESTION)) == ANSWER


@pytest.mark.parametrize("responses", [False, True])
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_reads_structured_answers(langchain, method, responses):
    chat = langchain(use_responses_api=responses).with_structured_output(City, method=method)
    assert isinstance(chat.invoke("Which city?"), City)


@pytest.mark.parametrize("responses", [False, True])
def test_langchain_runs_a_tool_agent(langchain, responses):
    from langchain_core.messages import HumanMessage
    from langchain_core.tools import tool

    @tool
    def get_weather(city: Literal["Paris", "Rome"]) -> str:
        """The weather in a city."""
        return f"It is sunny in {city}."

    chat = langchain(use_responses_api=responses)
    history = [HumanMessage("How is the weather in Paris?")]
    called = chat.bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False).invoke(history)
    (call,) = called.tool_calls
    result = get_weather.invoke(call)
    assert "sunny" in result.content
    answered = chat.bind_tools([get_weather], tool_choice="none").invoke([*history, called, result])
    assert answered.text
    assert not answered.tool_calls


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_pydantic_ai_asks_streams_and_reads_outputs(server, api):
    library = pytest.importorskip("pydantic_ai")
    from pydantic_ai.models import openai as models
    from pydantic_ai.providers.openai import OpenAIProvider

    kind = {"chat": models.OpenAIChatModel, "responses": models.OpenAIResponsesModel}[api]
    settings = {"temperature": 0, "max_tokens": 60}

    async def tour(client):
        model = kind(MODEL, provider=OpenAIProvider(openai_client=client))
        assert (await library.Agent(model, model_settings=settings).run(QUESTION)).output == ANSWER
        async with library.Agent(model, model_settings=settings).run_stream(QUESTION) as stream:
            assert await stream.get_output() == ANSWER
        for output in (City, library.NativeOutput(City)):
            agent = library.Agent(model, output_type=output, model_settings=settings)
            assert isinstance((await agent.run("Which city?")).output, City)

    with_client(server, tour)


@pytest.mark.parametrize("mode", ["JSON_SCHEMA", "TOOLS"])
def test_instructor_reads_models(ai, mode):
    library = pytest.importorskip("instructor")
    client = library.from_openai(ai, mode=library.Mode[mode])
    options = {"model": MODEL, "messages": MESSAGES, "max_tokens": 60, "temperature": 0, "max_retries": 0}
    assert isinstance(client.create(response_model=City, **options), City)


@pytest.fixture
def agents(monkeypatch):
    monkeypatch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "1")  # or it sends what happens to OpenAI
    return pytest.importorskip("agents")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_openai_agents_call_tools_and_answer(server, agents, api, stream):
    kind = {"chat": agents.OpenAIChatCompletionsModel, "responses": agents.OpenAIResponsesModel}[api]
    seen = []

    @agents.function_tool
    def get_weather(city: Literal["Paris", "Rome"]) -> str:
        """The weather in a city."""
        seen.append(city)
        return f"It is sunny in {city}."

    async def tour(client):
        settings = agents.ModelSettings(temperature=0, max_tokens=60, tool_choice="required", parallel_tool_calls=False)
        agent = agents.Agent("assistant", model=kind(MODEL, client), tools=[get_weather], model_settings=settings)
        if not stream:
            return (await agents.Runner.run(agent, "How is the weather in Paris?")).final_output
        result = agents.Runner.run_streamed(agent, "How is the weather in Paris?")
        kinds = [event.type async for event in result.stream_events()]
        assert {"raw_response_event", "run_item_stream_event"} <= set(kinds)
        return result.final_output

    assert with_client(server, tour)
    assert len(seen) == 1


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_openai_agents_read_outputs(server, agents, api):
    kind = {"chat": agents.OpenAIChatCompletionsModel, "responses": agents.OpenAIResponsesModel}[api]

    async def tour(client):
        settings = agents.ModelSettings(temperature=0, max_tokens=60)
        agent = agents.Agent("assistant", model=kind(MODEL, client), output_type=City, model_settings=settings)
        return (await agents.Runner.run(agent, "Which city?")).final_output

    assert isinstance(with_client(server, tour), City)
