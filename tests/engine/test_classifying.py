"""Texts and pairs through models with heads: beside transformers' on the same tiny random checkpoints."""

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from checkpoints import edit_config, save_checkpoint
from encoders import ENCODERS, WORDS, Encoder, save_words
from octavo import LLM, AsyncLLM, PoolingParams, SamplingParams
from octavo.engine.pair_template import PairTemplate
from octavo.errors import ConfigError, ModelLoadError, ParameterError, PromptError, RequestError

TEXTS = ["the cat sat", "dog", "the king of river queen bank money", "a passage : what is where the queen sat on"]
EXECUTORS = ["native", "torch"]
LABELS = {"num_labels": 3, "id2label": {0: "bad", 1: "so so", 2: "good"}}


ENDS = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}


def head(name, kind="ForSequenceClassification", **sizes):
    return replace(ENCODERS[name], suffix=kind, sizes=ENCODERS[name].sizes | LABELS | ENDS | sizes)


TOKENS = "ForTokenClassification"
HEADS = {
    "BERT": head("BERT"),
    "BERT of tokens": head("BERT", TOKENS),
    "DistilBERT": head("DistilBERT"),
    "DistilBERT of tokens": head("DistilBERT", TOKENS),
    "RoBERTa": head("RoBERTa"),
    "RoBERTa of tokens": head("RoBERTa", TOKENS),
    "XLM-RoBERTa": head("XLM-RoBERTa", pad_token_id=1),
    "CamemBERT": Encoder("Camembert", {"pad_token_id": 1, "type_vocab_size": 1, **LABELS}, "ForSequenceClassification"),
    "ModernBERT": head("ModernBERT"),
    "ModernBERT, mean": head("ModernBERT", classifier_pooling="mean", classifier_bias=True, norm_bias=True),
    "ModernBERT of tokens": head("ModernBERT", TOKENS),
    "EuroBERT": head("EuroBERT"),
    "EuroBERT, first": head("EuroBERT", classifier_pooling="bos"),
    "EuroBERT of tokens": head("EuroBERT", TOKENS),
    "Nomic": head("Nomic"),
    "GTE": head("GTE"),
    "MPNet": head("MPNet"),
    "MPNet of tokens": head("MPNet", TOKENS),
    "Jina v3": head("Jina v3"),
}
DECODER = {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, **LABELS}
DECODERS = {
    "Llama": Encoder("Llama", DECODER, "ForSequenceClassification"),
    "Llama of tokens": Encoder("Llama", DECODER, TOKENS),
    "Qwen3": Encoder("Qwen3", DECODER, "ForSequenceClassification"),
    "Gemma 2": Encoder("Gemma2", {**DECODER, "head_dim": 16}, "ForSequenceClassification"),
    "Gemma 3": Encoder("Gemma3Text", {**DECODER, "head_dim": 16}, "ForSequenceClassification"),
    "GPT-2": Encoder("GPT2", {**DECODER, "intermediate_size": None}, "ForSequenceClassification"),
}


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def logits_of(model, ids, second=0):
    """[labels], or [tokens, labels]."""
    given = {"input_ids": torch.tensor([ids])}
    if second and getattr(model.config, "type_vocab_size", 0) > 1:
        given["token_type_ids"] = torch.tensor([[int(i >= second) for i in range(len(ids))]])
    with torch.no_grad():
        return model(**given).logits[0].float().numpy()


def make(path, encoder, seed=0):
    model = encoder.save(path, seed)
    save_words(path)
    return model


def scores(llm, texts, task, **options):
    found = llm.encode(texts, PoolingParams(**options), pooling_task=task, use_tqdm=False)
    return [output.outputs.data for output in found]


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", [*HEADS, *DECODERS])
def test_scores_are_transformers_s_and_labels_have_their_names(tmp_path, name, executor):
    model = make(tmp_path, (HEADS | DECODERS)[name])
    llm = LLM(str(tmp_path), dtype="float32", executor=executor)
    task = "token_classify" if "tokens" in name else "classify"
    ids = [llm.model.tokenizer.encode(text) for text in TEXTS]
    expected = [logits_of(model, one) for one in ids]
    for found, own in zip(scores(llm, TEXTS, task, use_activation=False), expected, strict=True):
        np.testing.assert_allclose(found, own, atol=1e-4 * np.abs(own).max())
    for found, own in zip(scores(llm, TEXTS, task), expected, strict=True):
        np.testing.assert_allclose(found, softmax(own), atol=1e-4)
    assert llm.model.pooler.labels == ("bad", "so so", "good")


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", ["BERT", "RoBERTa", "XLM-RoBERTa", "ModernBERT", "GTE", "Llama"])
def test_pairs_are_scored_as_by_transformers(tmp_path, name, executor):
    encoder = (HEADS | DECODERS)[name]
    model = make(tmp_path, replace(encoder, sizes=encoder.sizes | {"num_labels": 1, "id2label": {0: "LABEL_0"}}))
    llm = LLM(str(tmp_path), dtype="float32", executor=executor)
    tokenizer = llm.model.tokenizer
    expected = [logits_of(model, *tokenizer.encode_pair(TEXTS[0], text))[0] for text in TEXTS]
    raw = PoolingParams(use_activation=False)
    found = llm.score(TEXTS[0], TEXTS, pooling_params=raw, use_tqdm=False)
    np.testing.assert_allclose([one.outputs.score for one in found], expected, atol=1e-4 * np.abs(expected).max())
    assert found[1].prompt_token_ids == tokenizer.encode_pair(TEXTS[0], TEXTS[1])[0]
    found = llm.score([TEXTS[0]] * 4, TEXTS, use_tqdm=False)
    np.testing.assert_allclose([one.outputs.score for one in found], sigmoid(np.array(expected)), atol=1e-4)
    pair = {"prompt": TEXTS[0], "text_pair": TEXTS[3]}
    ids, second = tokenizer.encode_pair(TEXTS[0], TEXTS[3])
    types = {"prompt_token_ids": ids, "token_type_ids": [0] * second + [1] * (len(ids) - second)} if second else pair
    for prompt in (pair, types):
        (one,) = llm.classify(prompt, use_tqdm=False)
        assert one.outputs.probs == [pytest.approx(found[3].outputs.score, abs=1e-6)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["BERT", "ModernBERT of tokens", "Llama", "Llama of tokens"])
def test_scores_are_the_same_bits_alone_and_in_any_batch(tmp_path, name, dtype):
    make(tmp_path, (HEADS | DECODERS)[name])
    llm = LLM(str(tmp_path), dtype=dtype, max_num_seqs=5)
    task = "token_classify" if "tokens" in name else "classify"
    pairs = [{"prompt": TEXTS[0], "text_pair": text} for text in TEXTS]
    together = scores(llm, [*TEXTS, *pairs] * 3, task)
    for i, prompt in enumerate([*TEXTS, *pairs]):
        alone = scores(llm, [prompt], task)[0]
        for found in together[i :: 2 * len(TEXTS)]:
            np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("kind", ["Qwen2ForRewardModel", "Qwen2ForProcessRewardModel", "InternLM2ForRewardModel"])
def test_reward_models_score_tokens_or_steps(tmp_path, kind, executor):
    """They are written in remote code: the head is computed here."""
    rng = np.random.default_rng(0)
    base = "Qwen2" if kind.startswith("Qwen2") else "Llama"
    model = save_checkpoint(tmp_path, base, vocab_size=301, tie_word_embeddings=False)
    save_words(tmp_path)
    edit_config(tmp_path, architectures=[kind if base == "Qwen2" else "LlamaForRewardModel"])
    hidden, labels = model.config.hidden_size, 2 if "Process" in kind else 1
    shapes = {"v_head.weight": (labels, hidden)}
    if base == "Qwen2":
        sizes = {"score.0": (hidden, hidden), "score.2": (labels, hidden)}
        shapes = {f"{name}.weight": size for name, size in sizes.items()} | {
            f"{n}.bias": s[:1] for n, s in sizes.items()
        }
    tensors = {name: rng.standard_normal(shape).astype(np.float32) / 5 for name, shape in shapes.items()}
    file = tmp_path / "model.safetensors"
    kept = {name: x for name, x in load_file(file).items() if not name.startswith("lm_head")}
    save_file(kept | tensors, file)
    llm = LLM(str(tmp_path), dtype="float32", executor=executor, max_num_batched_tokens=16, max_num_seqs=4)
    ids = llm.model.tokenizer.encode(TEXTS[3] + " cat" * 9)
    with torch.no_grad():
        rows = model.model(torch.tensor([ids])).last_hidden_state[0].numpy()
    if base == "Qwen2":
        rows = np.maximum(rows @ tensors["score.0.weight"].T + tensors["score.0.bias"], 0)
        expected = rows @ tensors["score.2.weight"].T + tensors["score.2.bias"]
    else:
        expected = rows @ tensors["v_head.weight"].T
    expected = softmax(expected) if labels == 2 else expected
    (found,) = llm.reward([ids], use_tqdm=False)
    np.testing.assert_allclose(found.outputs.data, expected, atol=1e-4 * np.abs(expected).max())
    cat = llm.model.tokenizer.token_id("cat")
    params = PoolingParams(step_tag_id=cat, returned_token_ids=[0])
    (steps,) = llm.reward([ids], pooling_params=params, use_tqdm=False)
    places = np.flatnonzero(np.array(ids) == cat)
    assert len(places) == 9
    np.testing.assert_allclose(steps.outputs.data, expected[places, :1], atol=1e-4 * np.abs(expected).max())


def test_an_event_loop_gets_scores_too(tmp_path):
    make(tmp_path, HEADS["BERT"])
    pair = {"prompt": TEXTS[0], "text_pair": TEXTS[1]}
    expected = scores(LLM(str(tmp_path), dtype="float32"), [TEXTS[0], pair], "classify")

    async def classify(llm, prompt):
        (found,) = [output.outputs.data async for output in llm.encode(prompt, PoolingParams("classify"))]
        return found

    async def classify_both():
        async with AsyncLLM(str(tmp_path), dtype="float32") as llm:
            return await asyncio.gather(classify(llm, TEXTS[0]), classify(llm, pair))

    np.testing.assert_array_equal(asyncio.run(classify_both()), expected)


def test_fields_of_config_json_may_be_replaced(tmp_path):
    model = make(tmp_path, HEADS["ModernBERT"])
    llm = LLM(str(tmp_path), dtype="float32", hf_overrides={"classifier_pooling": "mean", "id2label": None})
    model.config.classifier_pooling = "mean"
    (found,) = llm.classify(TEXTS[0], use_tqdm=False)
    expected = softmax(logits_of(model, llm.model.tokenizer.encode(TEXTS[0])))
    np.testing.assert_allclose(found.outputs.probs, expected, atol=1e-4)
    assert llm.model.pooler.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    with pytest.raises(ConfigError, match=r"hf_overrides.*must be a dict, as"):
        LLM(str(tmp_path), hf_overrides="classifier_pooling")


def test_a_sequence_classifier_rewards_the_text(tmp_path):
    encoder = DECODERS["Llama"]
    model = make(tmp_path, replace(encoder, sizes=encoder.sizes | {"num_labels": 1, "id2label": {0: "LABEL_0"}}))
    llm = LLM(str(tmp_path), dtype="float32")
    (found,) = llm.reward(TEXTS[0], use_tqdm=False)
    np.testing.assert_allclose(found.outputs.data, logits_of(model, llm.model.tokenizer.encode(TEXTS[0])), atol=1e-4)


def save_reranker(path):
    model = save_checkpoint(path, "Qwen3", vocab_size=301, tie_word_embeddings=False, max_position_embeddings=512)
    save_words(path)
    return model


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("method", ["from_2_way_softmax", "no_post_processing"])
def test_the_logits_of_tokens_are_scores(tmp_path, method, executor):
    model = save_reranker(tmp_path)
    overrides = {"architectures": ["Qwen3ForSequenceClassification"], "classifier_from_token": ["cat", "dog"]}
    llm = LLM(str(tmp_path), dtype="float32", executor=executor, hf_overrides={**overrides, "method": method})
    tokenizer = llm.model.tokenizer
    ids = tokenizer.encode(TEXTS[2])
    with torch.no_grad():
        logits = (
            model(torch.tensor([ids])).logits[0, -1].numpy()[[tokenizer.token_id("cat"), tokenizer.token_id("dog")]]
        )
    (found,) = llm.classify([ids], use_tqdm=False)
    expected = softmax(logits)[1:] if method == "from_2_way_softmax" else softmax(logits)
    np.testing.assert_allclose(found.outputs.probs, expected, atol=1e-4)


def test_qwen3_reranker_is_asked_whether_the_document_meets_the_query(tmp_path):
    folder = tmp_path / "Qwen3-Reranker-0.6B"
    save_reranker(folder)
    plain = LLM(str(folder), dtype="float32", max_model_len=400, max_logprobs=-1)
    assert plain.model.pooler is None  # it generates unless told otherwise
    llm = LLM(
        str(folder),
        dtype="float32",
        max_model_len=400,
        task="score",
        hf_overrides={"classifier_from_token": ["cat", "dog"], "is_original_qwen3_reranker": True},
    )
    found = llm.score(TEXTS[0], TEXTS, use_tqdm=False)
    template = PairTemplate()
    for one, text in zip(found, TEXTS, strict=True):
        said = f"{template.prefix}{template.before_first}{TEXTS[0]}{template.before_second}{text}{template.suffix}"
        ids = plain.model.tokenizer.encode(said, add_special_tokens=False)
        assert one.prompt_token_ids == ids
        (generated,) = plain.generate([ids], SamplingParams(max_tokens=1, logprobs=301), use_tqdm=False)
        logprobs = generated.outputs[0].logprobs[0]
        no, yes = (logprobs[plain.model.tokenizer.token_id(word)].logprob for word in ("cat", "dog"))
        assert one.outputs.score == pytest.approx(sigmoid(yes - no), abs=1e-4)
    whole = (
        f"{template.prefix}{template.before_first}{TEXTS[0]}",
        f"{template.before_second}{TEXTS[1]}{template.suffix}",
    )
    (same,) = llm.score(*whole, use_tqdm=False)
    assert same.outputs.score == pytest.approx(found[1].outputs.score, abs=1e-6)
    with pytest.raises(ModelLoadError, match=r"classifier_from_token: 'no' is no token of the model"):
        LLM(str(folder), dtype="float32", task="score")


@pytest.mark.parametrize("no", [None, 7])
def test_a_folder_of_sentence_transformers_may_say_whose_logits_are_scores(tmp_path, no):
    """Pairs are messages to a chat template that knows their roles; its end stays where the second text is cut."""
    model = save_reranker(tmp_path)
    (tmp_path / "1_LogitScore").mkdir()
    (tmp_path / "1_LogitScore" / "config.json").write_text(json.dumps({"true_token_id": 5, "false_token_id": no}))
    modules = [("base.modules.transformer.Transformer", ""), ("cross_encoder.modules.LogitScore", "1_LogitScore")]
    entries = [{"type": f"sentence_transformers.{kind}", "path": path} for kind, path in modules]
    (tmp_path / "modules.json").write_text(json.dumps(entries))
    activation = {"activation_fn": "torch.nn.modules.linear.Identity"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(activation))
    template = (
        "{% for m in messages %}{% if m.role == 'query' %}query {% elif m.role == 'document' %}passage {% endif %}"
    )
    (tmp_path / "chat_template.jinja").write_text(template + "{{ m.content }} {% endfor %}where")
    llm = LLM(str(tmp_path), dtype="float32")
    found = llm.score(TEXTS[0], TEXTS, use_tqdm=False)
    for one, text in zip(found, TEXTS, strict=True):
        ids = llm.model.tokenizer.encode(f"query {TEXTS[0]} passage {text} where", add_special_tokens=False)
        assert one.prompt_token_ids == ids
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].numpy()
        expected = logits[5] - (0 if no is None else logits[no])
        assert one.outputs.score == pytest.approx(float(expected), abs=1e-4 * float(np.abs(logits).max()))
    (cut,) = llm.score(TEXTS[1], " ".join(WORDS), truncate_prompt_tokens=8, use_tqdm=False)
    kept = " ".join(WORDS[:4])
    expected = llm.model.tokenizer.encode(f"query {TEXTS[1]} passage {kept} where", add_special_tokens=False)
    assert cut.prompt_token_ids == expected
    assert LLM(str(tmp_path), dtype="float32", task="generate").model.pooler is None


@pytest.mark.parametrize(
    ("said", "labels", "by_classify", "by_score"),
    [
        ({}, 1, sigmoid, sigmoid),
        ({"problem_type": "regression"}, 1, lambda x: x, sigmoid),
        ({"problem_type": "multi_label_classification"}, 3, sigmoid, None),
        ({"problem_type": "single_label_classification"}, 3, softmax, None),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, 1, sigmoid, lambda x: x),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Tanh"}, 1, sigmoid, np.tanh),
    ],
)
def test_configurations_say_what_becomes_of_scores(tmp_path, said, labels, by_classify, by_score):
    sizes = {"num_labels": labels, "id2label": {i: f"LABEL_{i}" for i in range(labels)}}
    model = make(tmp_path, head("BERT", **sizes))
    edit_config(tmp_path, **said)
    llm = LLM(str(tmp_path), dtype="float32")
    (found,) = llm.classify(TEXTS[0], use_tqdm=False)
    expected = logits_of(model, llm.model.tokenizer.encode(TEXTS[0]))
    np.testing.assert_allclose(found.outputs.probs, by_classify(expected), atol=1e-4)
    assert found.outputs.num_classes == labels
    if by_score is None:
        with pytest.raises(
            ParameterError, match=r"a score is of 1 label, and the model has 3 \(LABEL_0, LABEL_1, LABEL_2\)"
        ):
            llm.score(TEXTS[0], TEXTS)
        return
    (scored,) = llm.score(TEXTS[0], TEXTS[1], use_tqdm=False)
    pair = logits_of(model, *llm.model.tokenizer.encode_pair(*TEXTS[:2]))
    assert scored.outputs.score == pytest.approx(by_score(pair)[0], abs=1e-4)


def test_pairs_are_cut_where_that_is_asked_and_refused_where_they_are_too_long(tmp_path):
    make(tmp_path, head("BERT", num_labels=1, id2label={0: "x"}))
    llm = LLM(str(tmp_path), dtype="float32", max_model_len=12)
    long = " ".join(WORDS * 3)
    for first, second in ((TEXTS[0], long), (long, TEXTS[0]), (long, long)):
        (cut,) = llm.score(first, second, truncate_prompt_tokens=-1, use_tqdm=False)
        assert cut.prompt_token_ids == llm.model.tokenizer.encode_pair(first, second, 12)[0]
        assert len(cut.prompt_token_ids) == 12
    found = llm.score(TEXTS[0], [TEXTS[1], long], use_tqdm=False)
    assert [one.error is None for one in found] == [True, False]
    assert "maximum context length is 12" in str(found[1].error)
    with pytest.raises(PromptError, match="token_type_ids must be 3"):
        llm.classify({"prompt_token_ids": [2, 5, 3], "token_type_ids": [1, 0, 1]})


def test_who_asks_for_the_other_thing_is_told_what_the_model_does(tmp_path):
    make(tmp_path / "classifier", HEADS["BERT"])
    make(tmp_path / "embedder", ENCODERS["BERT"])
    save_checkpoint(tmp_path / "chat", vocab_size=301)
    save_words(tmp_path / "chat")
    classifier, embedder, chat = (
        LLM(str(tmp_path / name), dtype="float32") for name in ("classifier", "embedder", "chat")
    )
    with pytest.raises(RequestError, match=r"classifier classifies texts, and generates none: see LLM.classify"):
        classifier.generate(TEXTS[0], use_tqdm=False)
    with pytest.raises(ParameterError, match=r"task must be one of classify, score, token_classify.* got 'embed'"):
        classifier.embed(TEXTS[0])
    for ask in (embedder.classify, embedder.reward):
        with pytest.raises(ParameterError, match=r"task must be one of embed, token_embed: the model embeds texts"):
            ask(TEXTS[0])
    for ask in (chat.classify, chat.reward, partial_score(chat)):
        with pytest.raises(RequestError, match=r"chat generates texts; .* what classifies or scores has a head"):
            ask(TEXTS[0])
    for name, task, complaint in [
        ("classifier", "generate", "this model classifies texts"),
        ("embedder", "classify", "this model embeds texts; say embed or score"),
        ("chat", "classify", "this model generates texts: it has no head"),
        ("chat", "score", "names no classifier_from_token"),
        ("classifier", "transcription", "this model classifies texts"),
    ]:
        with pytest.raises(ConfigError, match=rf"task.*{task}.*{complaint}"):
            LLM(str(tmp_path / name), task=task)
    assert len(classifier.classify(TEXTS, use_tqdm=False)) == len(TEXTS)  # nothing was left behind


def partial_score(llm):
    return lambda text: llm.score(text, text)


def test_tasks_may_have_the_names_of_vllm(tmp_path):
    model = make(tmp_path, HEADS["BERT"])
    expected = softmax(logits_of(model, [2, 5, 3]))
    for options in ({"task": "score"}, {"task": "reward"}, {"convert": "classify"}, {"runner": "pooling"}):
        llm = LLM(str(tmp_path), dtype="float32", **options)
        np.testing.assert_allclose(llm.classify([2, 5, 3], use_tqdm=False)[0].outputs.probs, expected, atol=1e-4)
    llm = LLM(str(tmp_path), dtype="float32", task="embed")
    with torch.no_grad():
        row = model.bert(torch.tensor([[2, 5, 3]])).last_hidden_state[0, 0].numpy()
    (found,) = llm.embed([2, 5, 3], use_tqdm=False)
    np.testing.assert_allclose(found.outputs.embedding, row / np.linalg.norm(row), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"classifier.weight": None}, r"classifier.weight: is missing: a head with a row for each label"),
        ({"classifier.weight": np.zeros((4, 48))}, r"id2label: names 3 labels, but classifier.weight has .* each of 4"),
        ({"classifier.weight": np.zeros((3, 40))}, r"classifier.weight: has shape .* before it has 48 columns"),
        ({"classifier.weight": np.full((3, 48), np.nan)}, r"classifier.weight: has values that are not finite"),
        ({"bert.pooler.dense.weight": np.zeros((48, 40))}, r"bert.pooler.dense.weight: has shape"),
    ],
)  # fmt: skip
def test_a_head_that_is_wrong_is_named(tmp_path, change, complaint):
    make(tmp_path, HEADS["BERT"])
    file = tmp_path / "model.safetensors"
    tensors = {name: x for name, x in load_file(file).items() if change.get(name, 0) is not None}
    tensors |= {name: x.astype(np.float32) for name, x in change.items() if x is not None}
    save_file(tensors | ({"classifier.bias": np.zeros(4, np.float32)} if complaint.endswith("4") else {}), file)
    with pytest.raises(ModelLoadError, match=complaint):
        LLM(str(tmp_path))


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"id2label": {"0": "a", "2": "b", "3": "c"}}, "id2label: must map 0, 1, 2"),
        ({"sbert_ce_default_activation_function": "os.system"}, "is not known; identity, tanh"),
        ({"classifier_from_token": "yes"}, "classifier_from_token: must be a list of tokens"),
    ],
)
def test_a_configuration_that_is_wrong_is_named(tmp_path, said, complaint):
    make(tmp_path, HEADS["BERT"])
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | said))
    with pytest.raises(ModelLoadError, match=complaint):
        LLM(str(tmp_path))


def test_heads_are_found_for_every_decoder_that_transformers_has_them_for():
    from octavo.models import declared
    from octavo.models.encoders.heads import without_head

    names = [name for name in dir(transformers) if name.endswith("ForSequenceClassification")]
    known = {name: without_head(name) for name in names}
    found = {name for name, (whole, kind) in known.items() if kind == "classify" and declared(whole) is not None}
    assert {"LlamaForSequenceClassification", "Gemma3TextForSequenceClassification"} <= found
    assert {"GPT2ForSequenceClassification", "XLMRobertaForSequenceClassification"} <= found
    assert known["T5ForSequenceClassification"] == ("T5ForSequenceClassification", None)
