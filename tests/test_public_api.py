"""The names that users import and the arguments that they pass: a change of them is a change of the API."""

import inspect

import pytest

import octavo


def arguments(function):
    """Parameters as they are written, without types: `name`, `name=default`, `*` before keywords."""
    text = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in text:
            text.append("*")
        prefix = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        text.append(f"{prefix}{name}{default}")
    return ", ".join(text)


def test_the_package_has_these_names():
    assert octavo.__all__ == [
        "LLM",
        "AsyncEngineArgs",
        "AsyncLLM",
        "BeamSearchParams",
        "ClassificationOutput",
        "ClassificationRequestOutput",
        "CompletionOutput",
        "ConfigError",
        "EmbeddingOutput",
        "EmbeddingRequestOutput",
        "EngineArgs",
        "GuidedDecodingParams",
        "LLMEngine",
        "Logprob",
        "MemoryPlanError",
        "ModelLoadError",
        "ModelNotFoundError",
        "ModelRegistry",
        "OctavoError",
        "PoolingOutput",
        "PoolingParams",
        "PoolingRequestOutput",
        "RequestError",
        "RequestOutput",
        "RequestOutputKind",
        "SamplingParams",
        "ScoringOutput",
        "ScoringRequestOutput",
        "StructuredOutputsParams",
        "TextPrompt",
        "TokensPrompt",
        "UnsupportedError",
        "__version__",
    ]
    for name in octavo.__all__:
        assert getattr(octavo, name) is not None
    assert set(dir(octavo)) >= set(octavo.__all__)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'octavo' has no attribute 'Llm'"):
        _ = octavo.Llm


LLM = {
    "__init__": "self, model=None, **options",
    "generate": "self, prompts=None, sampling_params=None, *, prompt_token_ids=None, use_tqdm=True, priority=None, "
    "lora_request=None",
    "chat": "self, messages, sampling_params=None, *, use_tqdm=True, chat_template=None, add_generation_prompt=True, "
    "continue_final_message=False, tools=None, chat_template_kwargs=None, lora_request=None",
    "chat_prompt": "self, messages, *, chat_template=None, add_generation_prompt=True, "
    "continue_final_message=False, tools=None, chat_template_kwargs=None",
    "beam_search": "self, prompts, params, *, use_tqdm=False",
    "embed": "self, prompts, *, truncate_prompt_tokens=None, use_tqdm=True, pooling_params=None, lora_request=None, "
    "prompt_name=None",
    "encode": "self, prompts, pooling_params=None, *, truncate_prompt_tokens=None, use_tqdm=True, lora_request=None, "
    "pooling_task=None",
    "classify": "self, prompts, *, pooling_params=None, truncate_prompt_tokens=None, use_tqdm=True, lora_request=None",
    "reward": "self, prompts, *, pooling_params=None, truncate_prompt_tokens=None, use_tqdm=True, lora_request=None",
    "score": "self, data_1, data_2, *, truncate_prompt_tokens=None, use_tqdm=True, pooling_params=None, "
    "lora_request=None, prompt_names=(None, None)",
    "stream": "self, prompt, sampling_params=None",
    "transcribe": "self, audio, *, progress=None, **options",
    "get_tokenizer": "self",
    "get_default_sampling_params": "self",
}
ASYNC_LLM = {
    "__init__": "self, model=None, **options",
    "generate": "self, prompt, sampling_params=None, request_id=None, *, priority=0, lora_request=None",
    "encode": "self, prompt, pooling_params=None, request_id=None, *, priority=0, lora_request=None",
    "open_stream": "self",
    "abort": "self, request_id",
    "close": "self",
    "shutdown": "self",
    "get_tokenizer": "self",
    "get_default_sampling_params": "self",
}


@pytest.mark.parametrize(("owner", "methods"), [(octavo.LLM, LLM), (octavo.AsyncLLM, ASYNC_LLM)])
def test_methods_take_these_arguments(owner, methods):
    public = {name for name, _ in inspect.getmembers(owner, inspect.isfunction) if not name.startswith("_")}
    assert {name: arguments(getattr(owner, name)) for name in [*public, "__init__"]} == methods


def test_sampling_params_has_vllm_s_fields_in_this_order():
    fields = list(inspect.signature(octavo.SamplingParams).parameters)
    assert fields[:12] == [
        "n",
        "best_of",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "use_beam_search",
        "length_penalty",
    ]
    assert len(fields) == len(set(fields)) == 33


def test_outputs_have_vllm_s_fields():
    request = list(inspect.signature(octavo.RequestOutput).parameters)
    assert request[:6] == ["request_id", "prompt", "prompt_token_ids", "prompt_logprobs", "outputs", "finished"]
    assert list(inspect.signature(octavo.CompletionOutput).parameters) == [
        "index",
        "text",
        "token_ids",
        "cumulative_logprob",
        "logprobs",
        "finish_reason",
        "stop_reason",
    ]
    assert list(inspect.signature(octavo.Logprob).parameters) == ["logprob", "rank", "decoded_token"]
