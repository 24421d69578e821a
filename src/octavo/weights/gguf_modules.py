"""What follows the model in a GGUF file that embeds: how rows are pooled, and the matrices behind that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from octavo.errors import ModelLoadError
from octavo.weights.config_reader import ConfigReader
from octavo.weights.head import Dense
from octavo.weights.sentence_transformers import OF_TOKENS, Modules
from octavo.weights.tensor import Checkpoint, StoredTensor

RANK = 4  # what {arch}.pooling_type is in files of rerankers
# By what it is; 0 says nothing, but for matrices behind it.
POOLINGS = {0: OF_TOKENS, 1: "mean", 2: "cls", 3: "last"}
_DENSE = ("dense_2", "dense_3")  # tensors of sentence-transformers' modules of that number


def pooling_type(checkpoint: Checkpoint) -> int:
    """As a GGUF file says it; 0 where that or another checkpoint does not. Raises ModelLoadError."""
    metadata = checkpoint.metadata or {}
    prefix = f"{metadata.get('general.architecture')}."
    keys = ConfigReader.of_file({"pooling_type": metadata.get(f"{prefix}pooling_type")}, checkpoint.path, prefix)
    kind = keys.integer("pooling_type", 0, low=0)
    if kind not in (*POOLINGS, RANK):
        raise keys.fail("pooling_type", f"{kind} is not supported, only {POOLINGS} and {RANK} of rerankers")
    return kind


def with_one_score(checkpoint: Checkpoint) -> Checkpoint:
    """Of a reranker whose labels are yes and no, the difference of the two rows: its sigmoid is the share of yes."""
    metadata = checkpoint.metadata or {}
    labels = metadata.get(f"{metadata.get('general.architecture')}.classifier.output_labels")
    tensor = checkpoint.tensors.get("score.weight")
    if tensor is None or labels != ["yes", "no"] or len(tensor.shape) != 2 or tensor.shape[0] != 2:
        return checkpoint
    yes, no = tensor.values()
    row = StoredTensor(tensor.name, "F32", (1, tensor.shape[1]), (yes - no).view(np.uint8), file=tensor.file)
    return replace(checkpoint, tensors={**checkpoint.tensors, tensor.name: row})


def read_modules(checkpoint: Checkpoint) -> tuple[Checkpoint, Modules | None]:
    """The checkpoint without the tensors of modules, and those; None where the file does not say how it pools.

    Raises ModelLoadError for a pooling that is not known.
    """
    kind = pooling_type(checkpoint)
    names = [f"{name}.weight" for name in _DENSE if f"{name}.weight" in checkpoint.tensors]
    biases = [f"{name}.bias" for name in _DENSE]
    rest = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in (*names, *biases)}
    if kind == RANK or (not kind and not names):
        return checkpoint, None
    dense = []
    for name in names:
        tensor = checkpoint.tensors[name]
        if len(tensor.shape) != 2:
            raise ModelLoadError(tensor.file, name, f"has shape {list(tensor.shape)}, which is no matrix's")
        bias = checkpoint.tensors.get(name.replace("weight", "bias"))
        if bias is not None and bias.shape != tensor.shape[:1]:
            raise ModelLoadError(bias.file, bias.name, f"has shape {list(bias.shape)}, not {list(tensor.shape[:1])}")
        dense.append(Dense(np.ascontiguousarray(tensor.values(), np.float32), None if bias is None else bias.values()))
    return replace(checkpoint, tensors=rest), Modules(POOLINGS[kind], tuple(dense), normalizes=True)
