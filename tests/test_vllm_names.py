"""Scripts written for vLLM's offline API run with the import changed."""

import argparse
import asyncio
import dataclasses
import importlib
import math
import subprocess
import sys
import wave

import numpy as np
import pytest

import octavo
from octavo import LLM, AsyncEngineArgs, AsyncLLM, EngineArgs, LLMEngine, SamplingParams
from octavo.assets.audio import AudioAsset
from octavo.errors import ConfigError, PromptError, UnsupportedError
from octavo.lora.request import LoRARequest
from octavo.sampling_params import RequestOutputKind
from octavo.utils import FlexibleArgumentParser, random_uuid

GREEDY = SamplingParams(temperature=0, max_tokens=5)
NAMES = {
    "octavo": "LLM LLMEngine AsyncLLMEngine EngineArgs AsyncEngineArgs SamplingParams RequestOutput CompletionOutput "
    "PromptType TextPrompt TokensPrompt PoolingParams PoolingRequestOutput EmbeddingRequestOutput "
    "ClassificationRequestOutput ScoringRequestOutput",
    "octavo.engine.arg_utils": "EngineArgs AsyncEngineArgs",
    "octavo.engine.llm_engine": "LLMEngine",
    "octavo.engine.async_llm_engine": "AsyncLLMEngine",
    "octavo.v1.engine.async_llm": "AsyncLLM",
    "octavo.v1.engine.llm_engine": "LLMEngine",
    "octavo.v1.sample.logits_processor": "AdapterLogitsProcessor BatchUpdate LogitsProcessor MoveDirectionality "
    "RequestLogitsProcessor process_dict_updates",
    "octavo.v1.sample.logits_processor.builtin": "process_dict_updates",
    "octavo.v1.sample.logits_processor.interface": "BatchUpdate LogitsProcessor MoveDirectionality",
    "octavo.entrypoints.llm": "LLM",
    "octavo.inputs": "PromptType TextPrompt TokensPrompt",
    "octavo.outputs": "RequestOutput CompletionOutput PoolingRequestOutput PoolingOutput EmbeddingRequestOutput "
    "EmbeddingOutput ScoringRequestOutput ScoringOutput ClassificationRequestOutput ClassificationOutput",
    "octavo.pooling_params": "PoolingParams",
    "octavo.sampling_params": "SamplingParams BeamSearchParams RequestOutputKind",
    "octavo.utils": "FlexibleArgumentParser random_uuid",
    "octavo.utils.argparse_utils": "FlexibleArgumentParser",
    "octavo.assets.audio": "AudioAsset",
    "octavo.lora.request": "LoRARequest",
}


@pytest.mark.parametrize(("module", "names"), NAMES.items())
def test_a_name_is_where_vllm_has_it(module, names):
    for name in names.split():
        found = getattr(importlib.import_module(module), name)
        assert getattr(octavo, name, found) is found


@pytest.mark.parametrize("module", ["octavo.entrypoints.openai.api_server", "octavo.entrypoints.api_server"])
def test_a_server_s_module_runs_and_can_be_imported(module):
    importlib.import_module(module)
    ran = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
    assert "octavo serve" in ran.stdout


# EngineArgs


@pytest.fixture
def path(tiny):
    return str(tiny[0])


def test_engine_args_are_the_options_of_an_llm(path):
    args = EngineArgs(model=path, max_model_len=64, max_num_seqs=2, limit_mm_per_prompt={"audio": 0})
    for llm in (LLM(**vars(args)), LLM(**dataclasses.asdict(args)), LLM.from_engine_args(args)):
        assert (llm.model.config.max_model_len, llm.model.config.max_num_seqs) == (64, 2)
    assert args.create_engine_config().model == path
    assert EngineArgs("m") == EngineArgs(model="m") != EngineArgs(model="n")


def test_engine_args_that_were_not_said_are_left_to_the_engine():
    assert set(vars(EngineArgs()).values()) == {None}
    assert EngineArgs().create_engine_config() == octavo.engine.arg_utils.EngineConfig.from_options({})


def test_engine_args_refuse_what_an_llm_refuses():
    with pytest.raises(TypeError, match="max_model_length"):
        EngineArgs(max_model_length=3)
    with pytest.raises(UnsupportedError, match="tensor_parallel_size=2"):
        EngineArgs(tensor_parallel_size=2).create_engine_config()
    with pytest.raises(ConfigError, match="block_size"):
        EngineArgs(block_size=7).create_engine_config()


@pytest.mark.parametrize("parser", [FlexibleArgumentParser, argparse.ArgumentParser])
def test_engine_args_come_from_a_command_line(parser):
    parser = EngineArgs.add_cli_args(parser())
    parser.add_argument("--other")
    args = parser.parse_args(["--model", "m", "--max-model-len", "4k", "--enforce-eager", "--swap-space", "8"])
    found = EngineArgs.from_cli_args(args)
    assert (found.model, found.max_model_len, found.enforce_eager, found.swap_space) == ("m", 4000, True, 8)
    assert found.dtype is None
    assert AsyncEngineArgs.from_cli_args(args).model == "m"


def test_the_parser_takes_flags_of_either_spelling():
    parser = FlexibleArgumentParser()
    parser.add_argument("--max-tokens", type=int)
    assert parser.parse_args(["--max_tokens", "3"]).max_tokens == 3
    assert parser.parse_args(["--max-tokens=4"]).max_tokens == 4


def test_uuids_differ():
    assert len({random_uuid() for _ in range(9)}) == 9


# Engines


def test_an_engine_is_stepped_by_its_user(path):
    text = "Ask not what your country"
    engine = LLMEngine.from_engine_args(EngineArgs(model=path))
    waiting = [(text, GREEDY), ("What is", SamplingParams(n=2, max_tokens=4, seed=1))]
    done = {}
    number = 0
    while waiting or engine.has_unfinished_requests():
        if waiting:
            assert engine.add_request(str(number), *waiting.pop(0)) == str(number)
            number += 1
        for output in engine.step():
            if output.finished:
                done[output.request_id] = output
    assert [len(done[name].outputs) for name in ("0", "1")] == [1, 2]
    expected = LLM(path).generate(text, GREEDY, use_tqdm=False)[0].outputs[0].text
    assert done["0"].outputs[0].text == expected
    engine.add_request("again", text, GREEDY)
    assert engine.get_num_unfinished_requests() == 1
    engine.abort_request(["again", "never there"])
    assert not engine.has_unfinished_requests()
    assert engine.get_tokenizer().encode("Hi") == engine.model.tokenizer.encode("Hi")


def test_an_async_engine_comes_from_engine_args(path):
    async def answer():
        engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model=path))
        params = GREEDY.clone()
        params.output_kind = RequestOutputKind.DELTA
        try:
            outputs = [o async for o in engine.generate(request_id="a", prompt="Ask", sampling_params=params)]
            with pytest.raises(UnsupportedError, match="lora_request"):
                await anext(engine.generate("Ask", GREEDY, "b", lora_request=LoRARequest("a", 1, "path")))
            return "".join(o.outputs[0].text for o in outputs), engine.get_tokenizer()
        finally:
            engine.shutdown()

    text, tokenizer = asyncio.run(answer())
    llm = LLM(path)
    assert text == llm.generate("Ask", GREEDY, use_tqdm=False)[0].outputs[0].text
    assert len(tokenizer) == len(llm.get_tokenizer())


def test_an_adapter_is_refused_by_name(path):
    llm = LLM(path)
    request = LoRARequest("speech", 1, "path")
    for given in (request, [request]):
        with pytest.raises(UnsupportedError, match=r"lora_request=.*speech.*: LoRA adapters are not supported yet"):
            llm.generate("hi", GREEDY, lora_request=given)
    llm.generate("hi", GREEDY, lora_request=None, use_tqdm=False)


# Sounds


def test_a_sound_is_a_file_of_this_machine(tmp_path):
    samples = (np.sin(np.arange(8000) * 2 * math.pi * 440 / 8000) * 9000).astype("<i2")
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(samples.tobytes())
    for name in ("tone", "tone.wav"):
        asset = AudioAsset(str(tmp_path / name))
        assert asset.get_local_path() == tmp_path / "tone.wav"
        found, rate = asset.audio_and_sample_rate
        assert (found.dtype, len(found), rate) == (np.float32, 16000, 16000)


def test_a_sound_that_is_not_there_is_not_downloaded():
    asset = AudioAsset("mary_had_lamb")
    with pytest.raises(PromptError, match="'mary_had_lamb': no such file here, and none is downloaded; give a path"):
        _ = asset.audio_and_sample_rate


def test_a_script_for_whisper_runs_with_the_import_changed(whisper_model, audio_path):
    args = EngineArgs(model=str(whisper_model), max_model_len=448, max_num_seqs=5, limit_mm_per_prompt={"audio": 1})
    args.limit_mm_per_prompt = {"image": 0, "video": 0} | args.limit_mm_per_prompt
    llm = LLM(**(vars(args) | {"seed": 0}))
    sound = {"audio": [AudioAsset(str(audio_path)).audio_and_sample_rate]}
    prompts = [{"prompt": "<|startoftranscript|>", "multi_modal_data": sound}]
    params = SamplingParams(temperature=0.2, max_tokens=64, stop_token_ids=None)
    (output,) = llm.generate(prompts, sampling_params=params, lora_request=None)
    assert output.outputs[0].text.strip()


def test_a_model_of_speech_does_not_only_generate(tmp_path):
    from speech.tiny_whisper import make_tiny_whisper

    with pytest.raises(ConfigError, match="task='generate': this model reads speech; say transcription"):
        LLM(str(make_tiny_whisper(tmp_path / "tiny")), task="generate")
