"""A tiny Whisper of random weights that knows all languages. What it writes makes no sense, but is always the same."""

import json

import torch
from tokenizers import AddedToken

from cli.conftest import byte_tokenizer
from octavo.speech.languages import LANGUAGES

FIRST = ("<|endoftext|>", "<|startoftranscript|>")
LAST = ("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")
TIMESTAMPS = 1501


def make_tiny_whisper(path, decoder_layers=1):
    """A checkpoint as transformers writes it. Its windows are those of the real ones: 30 s, 448 tokens of text."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    path.mkdir(parents=True)
    tokenizer = byte_tokenizer()
    control = [*FIRST, *(f"<|{code}|>" for code in LANGUAGES), *LAST]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in control])
    tokenizer.save(str(path / "tokenizer.json"))
    end = tokenizer.token_to_id("<|endoftext|>")
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=tokenizer.get_vocab_size() + TIMESTAMPS,
        encoder_layers=1,
        decoder_layers=decoder_layers,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        d_model=32,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=end + 1,
        suppress_tokens=[],
        begin_suppress_tokens=[end],
        init_std=0.5,
    )
    WhisperForConditionalGeneration(config).save_pretrained(path)
    written = json.loads((path / "config.json").read_text()) | {"is_multilingual": True}
    (path / "config.json").write_text(json.dumps(written))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return path
