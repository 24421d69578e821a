"""What a model is to do: generate, embed or classify, as the user, its configuration and its folder say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from octavo.config import ADAPTED_TASKS, POOLING_TASKS, EngineConfig
from octavo.engine.multi_vector import ENCODERS
from octavo.errors import ConfigError
from octavo.models.base import CausalLM
from octavo.models.encoders.heads import without_head
from octavo.weights import Checkpoint
from octavo.weights.adapters import adaptations, with_adapters
from octavo.weights.files import read_json

if TYPE_CHECKING:
    from octavo.weights.sentence_transformers import Modules

CLASSIFYING = {"score": "classify", "classify": "classify", "reward": "reward"}  # tasks, and the heads they need
# What Qwen3-Reranker's authors advise in none of its files: a generator whose next token is the answer.
QWEN3_RERANKER = {"classifier_from_token": ["no", "yes"], "is_original_qwen3_reranker": True}


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a model is to do; it generates if it does not embed, and has no head."""

    checkpoint: Checkpoint  # with the name that its architecture has here
    embeds: bool = False
    modules: Modules | None = None  # what follows the model in its folder
    name: str = ""  # of its architecture, as its configuration has it
    head: str | None = None  # the kind of head that classifies, see `octavo.models.encoders.heads`

    def check(self, config: EngineConfig, model: CausalLM) -> None:
        """Raises ConfigError where a model that does nothing else is to do something else."""
        embeds = config.task in ("auto", "embed", "score", "pooling", *ADAPTED_TASKS)
        if model.pooling is None or embeds or self.head is not None:
            return
        raise ConfigError("task", config.task, "this model embeds texts; say embed or score, or leave it out")


def purpose_of(config: EngineConfig, checkpoint: Checkpoint) -> Purpose:
    """What the model at hand is for.

    A head classifies unless `task` says that the model is to embed. Decoders embed where `task` says it, where
    modules.json says how, or where a checkpoint is of a model without the logits, as "Qwen3Model". Raises
    ModelLoadError, or ConfigError for a task that needs a head or adapters which are not there.
    """
    said = config.hf_overrides or {}
    of_text = said.get("text_config")  # which is part of the whole here
    whole_config = {**checkpoint.config, **said, **(of_text if isinstance(of_text, Mapping) else {})}
    checkpoint = replace(checkpoint, config=whole_config)
    names = checkpoint.config.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    whole, head = without_head(ENCODERS.get(name, name))
    if whole != name:
        checkpoint = replace(checkpoint, config={**checkpoint.config, "architectures": [whole]})
    if config.task not in ("auto", *POOLING_TASKS, *ADAPTED_TASKS):
        if head is not None:
            reason = f"this model classifies texts ({name}); say classify, score or reward, or leave it out"
            raise ConfigError("task", config.task, reason)
        return Purpose(checkpoint)
    if head is None and config.task != "embed" and (checkpoint.path / "modules.json").is_file():
        from octavo.weights.sentence_transformers import read_logit_score  # only such folders need it

        if scores := read_logit_score(checkpoint.path):
            checkpoint, head = replace(checkpoint, config={**checkpoint.config, **scores}), "classify"
    if head is None and config.task in CLASSIFYING and name.endswith(("ForCausalLM", "LMHeadModel")):
        checkpoint, head = _made_to_classify(config, checkpoint)
    if checkpoint.metadata is not None and config.task not in ("embed", "pooling"):
        from octavo.weights import gguf_modules

        if gguf_modules.pooling_type(checkpoint) == gguf_modules.RANK:
            checkpoint, head = gguf_modules.with_one_score(checkpoint), "classify"
    if head is not None and config.task not in ("embed", *ADAPTED_TASKS):
        return Purpose(_with_activation(checkpoint), head=head)
    checkpoint, modules = _modules(checkpoint)
    if config.task in ADAPTED_TASKS or adaptations(checkpoint.config):
        checkpoint, task = with_adapters(checkpoint, config.task if config.task in ADAPTED_TASKS else None)
        modules = modules and modules.for_task(task)
    embeds = config.task in ("embed", "pooling", *ADAPTED_TASKS) or whole != name or modules is not None
    return Purpose(checkpoint, embeds, modules, name)


def _with_activation(checkpoint: Checkpoint) -> Checkpoint:
    """With what newer folders of sentence-transformers say beside config.json of what becomes of scores."""
    file = checkpoint.path / "config_sentence_transformers.json"
    said = read_json(file).get("activation_fn") if file.is_file() else None
    if said is None:
        return checkpoint
    return replace(checkpoint, config={**checkpoint.config, "sentence_transformers": {"activation_fn": said}})


def _modules(checkpoint: Checkpoint) -> tuple[Checkpoint, Modules | None]:
    """The checkpoint without what follows the model, and that."""
    if (checkpoint.path / "modules.json").is_file():
        from octavo.weights.sentence_transformers import read_modules  # only such folders need it

        return checkpoint, read_modules(checkpoint.path)
    if checkpoint.metadata is not None:
        from octavo.weights import gguf_modules

        return gguf_modules.read_modules(checkpoint)
    return checkpoint, None


def _made_to_classify(config: EngineConfig, checkpoint: Checkpoint) -> tuple[Checkpoint, str | None]:
    """A decoder with logits that is to classify: by a head that it has besides, or by the logits of some tokens."""
    if "classifier_from_token" in checkpoint.config or {"score.weight", "score.0.weight"} & checkpoint.tensors.keys():
        return checkpoint, CLASSIFYING[config.task]
    if (checkpoint.path / "modules.json").is_file() and config.task == "score":
        return checkpoint, None
    if "qwen3-reranker" in str(checkpoint.path.absolute()).lower():
        return replace(checkpoint, config={**checkpoint.config, **QWEN3_RERANKER}), "classify"
    reason = (
        "this model generates texts: it has no head that classifies, and config.json (or hf_overrides) names no "
        "classifier_from_token; say generate or embed, or leave it out"
    )
    raise ConfigError("task", config.task, reason)
