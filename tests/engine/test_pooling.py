"""Texts become vectors, through the whole engine: `LLM.embed` and `LLM.encode` beside transformers and numpy."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import torch

from checkpoints import save_checkpoint
from encoders import ENCODERS, WORDS, rows_of, save_modules, save_words
from octavo import LLM, AsyncLLM, PoolingParams
from octavo.errors import ConfigError, ModelLoadError, ParameterError, PromptError, RequestError

TEXTS = ["the cat sat on the mat", "dog", " ".join(WORDS * 4), "river bank money bank"]
EXECUTORS = ["native", "torch"]


def make(path, family="BERT", **modules):
    """A model of that family, with the modules of sentence-transformers; returns transformers' too."""
    model = ENCODERS[family].save(path)
    save_words(path)
    if modules:
        save_modules(path, **modules)
    return model


def vectors(llm, texts=TEXTS, **options):
    return np.array([output.outputs.embedding for output in llm.embed(texts, use_tqdm=False, **options)])


def unit(x):
    return x / np.linalg.norm(x)


POOLED = {
    "cls_token": lambda rows: rows[0],
    "mean_tokens": lambda rows: rows.mean(0),
    "max_tokens": lambda rows: rows.max(0),
    "lasttoken": lambda rows: rows[-1],
    "mean_sqrt_len_tokens": lambda rows: rows.sum(0) / len(rows) ** 0.5,
    "weightedmean_tokens": lambda rows: np.average(rows, axis=0, weights=np.arange(1, len(rows) + 1)),
}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("mode", POOLED)
def test_rows_are_pooled_as_modules_json_says(tmp_path, mode, executor):
    model = make(tmp_path, mode=mode, normalizes=mode == "mean_tokens")
    llm = LLM(str(tmp_path), dtype="float32", executor=executor)
    own = [POOLED[mode](rows_of(model, llm.model.tokenizer.encode(text))) for text in TEXTS]
    expected = np.array([unit(x) if mode == "mean_tokens" else x for x in own])
    np.testing.assert_allclose(vectors(llm), expected, atol=1e-4 * np.abs(expected).max())


def test_layers_behind_the_pooling_are_computed(tmp_path):
    model = ENCODERS["RoBERTa"].save(tmp_path)
    save_words(tmp_path)
    first, second = save_modules(tmp_path, dense=[(48, 20), (20, 12)])
    llm = LLM(str(tmp_path), dtype="float32")
    for text, found in zip(TEXTS, vectors(llm), strict=True):
        x = rows_of(model, llm.model.tokenizer.encode(text)).mean(0)
        x = np.tanh(first["linear.weight"] @ x + first["linear.bias"])
        np.testing.assert_allclose(found, unit(second["linear.weight"] @ x), atol=1e-4)


def test_without_modules_the_first_row_is_taken_and_made_as_long_as_1(tmp_path):
    model = make(tmp_path)
    llm = LLM(str(tmp_path), dtype="float32")
    ids = llm.model.tokenizer.encode(TEXTS[0])
    (output,) = llm.embed(TEXTS[0], use_tqdm=False)
    np.testing.assert_allclose(output.outputs.embedding, unit(rows_of(model, ids)[0]), atol=1e-4)
    assert (output.prompt_token_ids, output.finished, output.outputs.hidden_size) == (ids, True, 48)
    (rows,) = llm.encode(TEXTS[0], PoolingParams(normalize=False), pooling_task="token_embed", use_tqdm=False)
    expected = rows_of(model, ids)
    np.testing.assert_allclose(rows.outputs.data, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("executor", EXECUTORS)
def test_clip_projects_the_row_of_the_token_that_ends_a_text(tmp_path, executor):
    clip = ENCODERS["CLIP with a projection"]
    model = replace(clip, sizes=clip.sizes | {"bos_token_id": 2, "eos_token_id": 3}).save(tmp_path)
    save_words(tmp_path)
    llm = LLM(str(tmp_path), dtype="float32", executor=executor)
    ids = [torch.tensor([llm.model.tokenizer.encode(text)]) for text in TEXTS]
    with torch.no_grad():
        expected = np.array([unit(model(one).text_embeds[0].numpy()) for one in ids])
    np.testing.assert_allclose(vectors(llm), expected, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", ["mean_tokens", "lasttoken"])
def test_a_vector_is_the_same_bits_alone_and_in_any_batch(tmp_path, mode, dtype):
    make(tmp_path, mode=mode, dense=[(48, 20)])
    llm = LLM(str(tmp_path), dtype=dtype)
    together = vectors(llm, TEXTS * 5)
    np.testing.assert_array_equal(together, np.tile(together[: len(TEXTS)], (5, 1)))
    np.testing.assert_array_equal(np.concatenate([vectors(llm, [text]) for text in TEXTS]), together[: len(TEXTS)])


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("mode", ["lasttoken", "mean_tokens"])
def test_a_decoder_embeds_where_its_folder_says_how(tmp_path, mode, executor):
    """In chunks, and with prefixes that the cache has."""
    model = save_checkpoint(tmp_path, "Qwen3", vocab_size=301)
    save_words(tmp_path)
    save_modules(tmp_path, mode=mode)
    options = {"max_num_batched_tokens": 16, "max_num_seqs": 4, "block_size": 16}
    llm = LLM(str(tmp_path), dtype="float32", executor=executor, **options)
    ids = [llm.model.tokenizer.encode(text) for text in TEXTS]
    expected = np.array([unit(POOLED[mode](rows_of(model.model, one))) for one in ids])
    np.testing.assert_allclose(vectors(llm), expected, atol=1e-4)
    again = llm.embed(TEXTS, use_tqdm=False)
    np.testing.assert_allclose([output.outputs.embedding for output in again], expected, atol=1e-4)
    assert (again[2].num_cached_tokens > 0) == (mode == "lasttoken")


def test_a_checkpoint_without_logits_embeds_and_one_with_them_does_when_told(tmp_path):
    model = save_checkpoint(tmp_path / "whole", "Qwen3", vocab_size=301, tie_word_embeddings=False)
    model.model.save_pretrained(tmp_path / "part")
    kinds = [
        ("whole", {"task": "embed"}),
        ("whole", {"runner": "pooling"}),
        ("whole", {"convert": "embed"}),
        ("part", {}),
    ]
    for name, options in kinds:
        save_words(tmp_path / name)
        llm = LLM(str(tmp_path / name), dtype="float32", **options)
        expected = unit(rows_of(model.model, llm.model.tokenizer.encode(TEXTS[0]))[-1])
        np.testing.assert_allclose(vectors(llm, TEXTS[:1])[0], expected, atol=1e-4)


def test_who_asks_for_the_other_thing_is_told_what_the_model_does(tmp_path):
    make(tmp_path / "embedder")
    save_checkpoint(tmp_path / "chat", vocab_size=301)
    save_words(tmp_path / "chat")
    embedder, chat = (LLM(str(tmp_path / name), dtype="float32") for name in ("embedder", "chat"))
    with pytest.raises(RequestError, match=r"embedder embeds texts, and generates none: see LLM.embed"):
        embedder.generate(TEXTS[0], use_tqdm=False)
    with pytest.raises(RequestError, match="chat generates texts; load it with task='embed'"):
        chat.embed(TEXTS[0])
    with pytest.raises(ConfigError, match=r"task.*generate.*this model embeds texts"):
        LLM(str(tmp_path / "embedder"), task="generate")
    assert len(vectors(embedder)) == len(TEXTS)  # nothing was left behind


def test_texts_may_be_as_long_as_the_model_reads_and_are_cut_where_that_is_asked(tmp_path):
    make(tmp_path, mode="mean_tokens")
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 10, "do_lower_case": false}')
    llm = LLM(str(tmp_path), dtype="float32")
    fits, long = " ".join(WORDS[:8]), " ".join(WORDS[:9])
    with pytest.raises(PromptError, match=r"maximum context length is 10 tokens, but the prompt has 11; .* at most 10"):
        llm.embed(long)
    (cut,) = llm.embed(long, truncate_prompt_tokens=-1, use_tqdm=False)
    (whole,) = llm.embed(fits, use_tqdm=False)
    assert cut.prompt_token_ids == whole.prompt_token_ids  # [SEP] is still at its end
    assert cut.outputs == whole.outputs
    several = llm.embed([long, fits, ""], use_tqdm=False)
    assert [output.error is None for output in several] == [False, True, True]  # an empty text has special tokens
    assert several[0].outputs.embedding == []
    with pytest.raises(PromptError, match="the prompt has 11"):
        llm.embed(fits, truncate_prompt_tokens=11)


def test_fewer_dimensions_are_for_models_that_were_trained_for_that(tmp_path):
    from checkpoints import edit_config

    make(tmp_path, mode="mean_tokens")
    llm = LLM(str(tmp_path), dtype="float32")
    with pytest.raises(ParameterError, match="dimensions must be left out: the model has vectors of 48"):
        llm.embed(TEXTS, pooling_params=PoolingParams(dimensions=16))
    full = vectors(llm)
    edit_config(tmp_path, matryoshka_dimensions=[16, 32])
    llm = LLM(str(tmp_path), dtype="float32")
    for asked in (16, 32):
        found = vectors(llm, pooling_params=PoolingParams(dimensions=asked))
        np.testing.assert_allclose(found, [unit(x[:asked]) for x in full], atol=1e-6)
    with pytest.raises(ParameterError, match="dimensions must be 16, 32, as the model was trained for, got 17"):
        llm.embed(TEXTS[0], pooling_params=PoolingParams(dimensions=17))


def test_prompts_go_before_texts_by_their_names(tmp_path):
    said = {"prompts": {"query": "query : ", "document": ""}, "default_prompt_name": "query"}
    make(tmp_path, mode="mean_tokens", prompts=said)
    llm = LLM(str(tmp_path), dtype="float32")
    found = [vectors(llm, ["cat"], prompt_name=name)[0] for name in (None, "query", "document")]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], vectors(llm, ["query : cat"], prompt_name="document")[0])
    assert np.abs(found[2] - found[1]).max() > 1e-3
    with pytest.raises(ParameterError, match="prompt_name must be one of query, document, got 'passage'"):
        llm.embed("cat", prompt_name="passage")


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("modules.json", '[{"type": "a.Transformer"}, {"type": "a.Pooling", "path": "../x"}]', "path: leads out"),
        ("modules.json", '[{"type": "a.Transformer"}, {"type": "a.LSTM"}]', "type: 'LSTM' is not supported"),
        ("modules.json", '[{"type": "a.Transformer"}]', "no module is a Pooling"),
        ("modules.json", '{"a": 1}', "must be a list of objects"),
        ("1_Pooling/config.json", "{}", "pooling_mode: must be some of"),
        ("1_Pooling/config.json", '{"pooling_mode": ["cls", "median"]}', "pooling_mode: must be some of"),
    ],
)
def test_modules_that_are_not_known_are_refused_by_name(tmp_path, file, text, complaint):
    make(tmp_path, mode="mean_tokens")
    (tmp_path / file).write_text(text)
    with pytest.raises(ModelLoadError, match=complaint):
        LLM(str(tmp_path))


def test_a_vector_that_is_not_finite_is_an_error_of_its_text_alone(tmp_path, monkeypatch):
    make(tmp_path)
    llm = LLM(str(tmp_path), dtype="float32")
    ids = llm.model.tokenizer.encode(TEXTS[1])
    run = llm.model.executor.run

    def spoiled(step):
        result = run(step)
        rows = result.logits.copy()
        end = np.cumsum(step.counts)
        for last, count in zip(end, step.counts, strict=True):
            if count == len(ids):
                rows[last - count] = np.nan
        result.logits = rows
        return result

    monkeypatch.setattr(llm.model.executor, "run", spoiled)
    found = llm.embed(TEXTS, use_tqdm=False)
    assert [output.error is None for output in found] == [True, False, True, True]


def test_many_at_once_and_beside_preempted_ones_are_what_each_is_alone(tmp_path):
    """Few blocks, so that texts of a decoder lose theirs and begin anew; and few tokens in a step."""
    save_checkpoint(tmp_path, "Qwen3", vocab_size=301)
    save_words(tmp_path)
    save_modules(tmp_path)
    texts = [" ".join(WORDS * count) for count in (1, 4, 2, 5, 3)] * 4
    wide, narrow = (
        LLM(str(tmp_path), dtype="float32", block_size=16, **options)
        for options in ({}, {"num_gpu_blocks_override": 9, "max_num_batched_tokens": 24, "max_num_seqs": 5})
    )
    np.testing.assert_array_equal(vectors(wide, texts), vectors(narrow, texts))


def test_an_event_loop_gets_vectors_too(tmp_path):
    make(tmp_path, mode="mean_tokens")
    expected = vectors(LLM(str(tmp_path), dtype="float32"))

    async def embed(llm, text):
        return [output async for output in llm.encode(text)]

    async def embed_all():
        async with AsyncLLM(str(tmp_path), dtype="float32") as llm:
            return await asyncio.gather(*(embed(llm, text) for text in TEXTS))

    found = asyncio.run(embed_all())
    assert [len(outputs) for outputs in found] == [1] * len(TEXTS)
    np.testing.assert_array_equal([outputs[0].outputs.data for outputs in found], np.float32(expected))


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", ["BERT", "Nomic", "EuroBERT"])
def test_weights_may_be_quantized_while_they_are_loaded(tmp_path, name, executor):
    """Those of checkpoints whose names lack the first part, too; vectors change, though little."""
    wide = {"hidden_size": 64, "intermediate_size": 128, "eos_token_id": 3, "bos_token_id": 2}
    replace(ENCODERS[name], sizes=ENCODERS[name].sizes | wide).save(tmp_path)
    save_words(tmp_path)
    save_modules(tmp_path)
    plain, quantized = (
        vectors(LLM(str(tmp_path), executor=executor, dtype="float32", **options))
        for options in ({}, {"quantization": "int8"})
    )
    cosines = (plain * quantized).sum(axis=1)
    assert (cosines > 0.99).all()
    assert (cosines < 1 - 1e-6).all()


def test_scores_are_cosines_of_one_text_and_each_or_of_pairs(tmp_path):
    make(tmp_path, mode="mean_tokens", normalizes=False)
    llm = LLM(str(tmp_path), dtype="float32")
    x = np.array([unit(one) for one in vectors(llm)])

    def scores(*data):
        return [output.outputs.score for output in llm.score(*data, use_tqdm=False)]

    np.testing.assert_allclose(scores(TEXTS[0], TEXTS), x @ x[0], atol=1e-6)
    np.testing.assert_allclose(scores(TEXTS, TEXTS[::-1]), (x * x[::-1]).sum(axis=1), atol=1e-6)
    np.testing.assert_allclose(scores(TEXTS[0], TEXTS[1]), [x[0] @ x[1]], atol=1e-6)
    with pytest.raises(PromptError, match="2 texts can't be compared with 3: give 1, or as many"):
        llm.score(TEXTS[:2], TEXTS[:3])
    wrong = llm.score(TEXTS[0], [TEXTS[1], " ".join(WORDS * 9)], use_tqdm=False)
    assert [output.error is None for output in wrong] == [True, False]
