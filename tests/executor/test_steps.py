"""What the native executor refuses, and that a refusal changes nothing."""

import numpy as np
import pytest

from harness import decoder, make_native, random_tensors, random_tokens
from octavo import _native

TOKENS = random_tokens(20)
GOOD = {
    "tokens": TOKENS[16:],
    "starts": [16],
    "counts": [4],
    "block_tables": [[3, 5]],
    "logit_rows": [3],
    "copies": np.zeros((0, 2), np.int32),
}
BAD = {
    "no tokens": {"tokens": [], "starts": [], "counts": [], "block_tables": np.zeros((0, 2))},
    "more tokens than a step may have": {"tokens": [0] * 257, "counts": [257], "block_tables": [range(40)]},
    "a negative token": {"tokens": [1, 2, -1, 3]},
    "a token outside the vocabulary": {"tokens": [1, 2, 131, 3]},
    "an empty sequence": {"starts": [16, 0], "counts": [4, 0], "block_tables": [[3, 5], [6, 7]]},
    "a negative count": {"starts": [16, 16], "counts": [5, -1], "block_tables": [[3, 5], [6, 7]]},
    "a negative start": {"starts": [-1]},
    "a start beyond the block table": {"starts": [29]},
    "a start near the largest integer": {"starts": [2**31 - 2]},
    "counts that do not add up": {"counts": [3]},
    "a block that is not there": {"block_tables": [[3, 64]]},
    "a negative block": {"block_tables": [[-1, 5]]},
    "a table without blocks": {"block_tables": np.zeros((1, 0))},
    "fewer tables than sequences": {"block_tables": np.zeros((0, 2))},
    "fewer counts than starts": {"counts": []},
    "a logit row beyond the tokens": {"logit_rows": [4]},
    "a negative logit row": {"logit_rows": [-1]},
    "more logit rows than there is room for": {"logit_rows": [0] * 257},
    "more sequences than there is room for": {
        "tokens": [1] * 41, "starts": [0] * 41, "counts": [1] * 41, "block_tables": [[0]] * 41,
    },
    "a copy from nowhere": {"copies": [[64, 1]]},
    "a copy to nowhere": {"copies": [[1, -1]]},
    "copies that are no pairs": {"copies": [[1, 2, 3]]},
}  # fmt: skip


def run(executor, **step):
    return executor.native.run(**{name: np.array(values, np.int32) for name, values in {**GOOD, **step}.items()})


def prefilled():
    graph = decoder()
    executor = make_native(graph, random_tensors(graph))
    run(executor, tokens=TOKENS[:16], starts=[0], counts=[16], logit_rows=[])
    return executor


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_a_malformed_step_is_refused_and_changes_nothing(change):
    untouched, executor = prefilled(), prefilled()
    with pytest.raises(ValueError, match="step"):
        run(executor, **change)
    run(untouched)
    run(executor)
    np.testing.assert_array_equal(executor.native.logits(1), untouched.native.logits(1))


BAD_SIZES = [
    {"page_tokens": 24},
    {"page_tokens": 512},
    *({"layers": [layer]} for layer in [(1, 7, 8, 0), (1, 8, 2048, 0)]),
]


@pytest.mark.parametrize("config", BAD_SIZES)
def test_sizes_that_kernels_can_t_handle_are_refused(config):
    sizes = {
        "layers": [(1, 8, 8, 0)],
        "page_tokens": 16,
        "num_pages": [1],
        "vocab_size": 9,
    }
    limits = {"max_tokens": 1, "max_sequences": 1, "max_logit_rows": 1}
    with pytest.raises(ValueError, match="must be"):
        _native.Executor(dtype="float32", cache_dtype="float32", **{**sizes, **limits, **config})


def test_a_type_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="float32 or bfloat16, got int7"):
        make_native(decoder(), random_tensors(decoder()), dtype="int7")


def test_weights_must_have_as_many_bytes_as_their_shape_says():
    data = np.zeros(64, np.uint8)
    for rows, columns in ((4, 5), (4, 3), (0, 4), (-4, -4)):
        with pytest.raises(ValueError, match="bytes"):
            _native.pack([("F32", data, rows, columns, None, None)], "stacked", "float32", _native.Arena())
    order = np.array([0, 1, 2, 4], np.int32)
    with pytest.raises(ValueError, match="order"):
        _native.pack([("F32", data, 4, 4, order, None)], "stacked", "float32", _native.Arena())


def test_an_isa_that_the_machine_lacks_is_refused_with_those_it_has():
    with pytest.raises(ValueError, match=r"'sse9' can't run .*portable"):
        _native.select_isa("sse9")


def test_an_op_that_is_not_there_is_refused_by_name():
    with pytest.raises(ValueError, match="has no op softmax"):
        make_native(decoder(), random_tensors(decoder())).native.add("softmax", [], [], {}, {}, {})


def test_a_parameter_that_an_op_does_not_have_is_refused_by_name():
    native = make_native(decoder(), random_tensors(decoder())).native
    x = (native.buffer(16, floats=True), 0, 16)
    with pytest.raises(ValueError, match="activation: cap is unknown"):
        native.add("activation", [x], [x], {}, {}, {"kind": "gelu", "cap": 3.0})
    with pytest.raises(ValueError, match="angles: inverse_frequencies is missing"):
        native.add("angles", [], [x], {}, {}, {"scale": 1.0})
    with pytest.raises(ValueError, match="add: an input is missing"):
        native.add("add", [x], [x], {}, {}, {})
