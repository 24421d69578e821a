"""Requests through the whole engine on a tiny checkpoint, however they are cut, preempted, copied, and cached."""

from dataclasses import replace

import numpy as np

from checkpoints import save_checkpoint, save_tokenizer
from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.engine.loading import load
from octavo.readers import READERS
from octavo.request import Prompt
from octavo.sampling_params import SamplingParams

SMALL = {"pad_token_id": None, "vocab_size": 500, "max_position_embeddings": 512}
DELTA = {"num_hidden_layers": 4, "head_dim": 24, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
MODELS = {
    "Qwen3_5Text": {**SMALL, **DELTA, "linear_key_head_dim": 12, "linear_value_head_dim": 20},
    "Lfm2": {
        **SMALL,
        "num_hidden_layers": 3,
        "full_attn_idxs": [1],
        "block_auto_adjust_ff_dim": False,
        "tie_word_embeddings": False,
    },
    "DeepseekV3": {
        **SMALL,
        "num_hidden_layers": 2,
        "num_key_value_heads": 6,
        "first_k_dense_replace": 1,
        "q_lora_rank": 24,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 20,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "moe_intermediate_size": 32,
    },
    "Qwen2": {
        **SMALL,
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "use_sliding_window": True,
        "sliding_window": 16,
        "head_dim": 16,
        "tie_word_embeddings": False,
    },
}
TOKENS = np.random.default_rng(1).integers(2, 480, 200).tolist()
GREEDY = SamplingParams(temperature=0, max_tokens=32, ignore_eos=True, logprobs=2)
CHUNKS = {"max_num_batched_tokens": 7}


def save_small(path, kind):
    """Leaves a tiny checkpoint; returns where it is, and transformers' model."""
    model = save_checkpoint(path, kind, **MODELS[kind])
    save_tokenizer(path, "And so, my fellow Americans: ask not what your country can do for you")
    return path, model


def load_small(path, executor, **options):
    sizes = {"max_num_seqs": 6, "block_size": 16, "max_num_batched_tokens": 64, "max_model_len": 160}
    return load(EngineConfig(model=str(path), dtype="float32", executor=executor, **sizes | options), READERS)


class Run:
    """Requests run to their end on an engine of their own; `plan` and `config` are changes of the model's."""

    def __init__(self, model, prompts, params=GREEDY, plan=(), **config):
        changed = replace(model, plan=replace(model.plan, **dict(plan)), config=replace(model.config, **config))
        self.engine, self.outputs = Engine(changed), {}
        self.requests = [self.submit(number, prompt, params) for number, prompt in enumerate(prompts)]
        self.drain()

    def submit(self, number, prompt, params=GREEDY):
        self.engine.submit(str(number), Prompt(None, prompt), params)
        return self.engine.jobs[str(number)].request

    def drain(self):
        while self.engine.has_work:
            self.outputs |= {int(output.request_id): output for output in self.engine.step()}

    def __getitem__(self, number):
        output = self.outputs[number]
        assert output.error is None
        return [
            (one.token_ids, [[(i, e.logprob) for i, e in entry.items()] for entry in one.logprobs])
            for one in output.outputs
        ]


def assert_same(model, found, expected):
    """To the last bit, where the executor is invariant."""
    if model.executor.runs_ahead:
        assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
    else:
        assert found == expected
