"""Whisper tiny.en out of CTranslate2's file, run by transformers: what was said is what comes out."""

from __future__ import annotations

import re
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from octavo.weights import Checkpoint, open_checkpoint

RATE = 16000


@pytest.fixture(scope="module")
def recording(audio_path: Path, spoken_text: str) -> tuple[np.ndarray[Any, Any], str]:
    """A few spoken sentences, float32 [n] at 16 kHz, and their words."""
    with wave.open(str(audio_path)) as file:
        frames = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
        length = len(frames) * RATE // file.getframerate()
    spectrum = np.fft.rfft(frames.mean(axis=1) / 2**15)[: length // 2 + 1]
    samples = np.fft.irfft(spectrum, length) * length / len(frames)
    return samples.astype(np.float32), spoken_text


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def transformers_whisper(checkpoint: Checkpoint) -> WhisperForConditionalGeneration:
    """The checkpoint as transformers runs it, in float32."""
    model = WhisperForConditionalGeneration(WhisperConfig(**checkpoint.config)).eval()
    weights = {name: torch.from_numpy(tensor.values()) for name, tensor in checkpoint.tensors.items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert missing == ["proj_out.weight"]
    assert not unexpected
    model.tie_weights()
    return model


@torch.no_grad()
def transcribe(model: WhisperForConditionalGeneration, config: dict[str, Any], samples: Any) -> list[int]:
    """Greedy token ids without timestamps."""
    features = WhisperFeatureExtractor(feature_size=config["num_mel_bins"])(samples, sampling_rate=RATE)
    hidden = model.model.encoder(torch.from_numpy(np.asarray(features.input_features))).last_hidden_state
    tokens = prompt = [config["decoder_start_token_id"], config["no_timestamps_token_id"]]
    while len(tokens) < 100 and tokens[-1] != config["eos_token_id"]:
        logits = model(encoder_outputs=(hidden,), decoder_input_ids=torch.tensor([tokens])).logits[0, -1]
        logits[config["suppress_tokens"]] = -torch.inf
        if tokens == prompt:
            logits[config["begin_suppress_tokens"]] = -torch.inf
        tokens = [*tokens, int(logits.argmax())]
    return tokens[len(prompt) : -1]


def test_what_was_said_is_what_comes_out(whisper_model: Path, recording: tuple[Any, str]) -> None:
    from octavo.text.tokenizer_files import read_tokenizer

    samples, text = recording
    checkpoint = open_checkpoint(whisper_model)
    tokens = transcribe(transformers_whisper(checkpoint), checkpoint.config, samples)
    assert words(read_tokenizer(whisper_model).decode(tokens)) == words(text)
