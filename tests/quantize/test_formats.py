"""What is written, read back by compressed-tensors."""

import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig

from octavo.errors import ConfigError
from octavo.quantize.formats import FORMATS
from octavo.quantize.rounding import to_nearest

VARIANTS = {
    "int4": FORMATS["int4"],
    "int4 of 64": FORMATS["int4"].with_options(64, False),
    "int4 of 128, symmetric": FORMATS["int4"].with_options(128, True),
    "int8": FORMATS["int8"],
    "fp8": FORMATS["fp8"],
    "w8a16": FORMATS["w8a16"],
}
TYPES = {"I64": torch.int64, "I32": torch.int32, "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn, "F32": torch.float32}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rows", [20, 64])
def test_compressed_tensors_finds_the_values_that_were_meant(variant, rows):
    format = VARIANTS[variant]
    weight = np.random.default_rng(0).standard_normal((rows, 384)).astype(np.float32)
    matrix = to_nearest(format.numbers, weight, format.group or 384, lambda scales: scales)
    announced, state = format.stored("weight", weight.shape, "F32"), {}
    arrays = format.tensors("weight", matrix, "F32")
    assert announced.keys() == arrays.keys()
    for name, (dtype, shape) in announced.items():
        state[name] = torch.tensor(arrays[name].reshape(-1)).view(TYPES[dtype]).reshape(shape)
    config = QuantizationConfig(**format.config(["lm_head"]))
    scheme = config.config_groups["group_0"]
    found = BaseCompressor.get_value_from_registry(format.storage).decompress(state, scheme)["weight"]
    np.testing.assert_array_equal(found.float().numpy(), matrix.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_configuration_is_as_compressed_tensors_writes_it(variant):
    config = VARIANTS[variant].config(["lm_head"])
    theirs = QuantizationConfig(**config).to_dict()
    groups = theirs.pop("config_groups")["group_0"], config.pop("config_groups")["group_0"]
    assert theirs.items() >= config.items()
    for part in ("weights", "input_activations"):
        assert (groups[0][part] or {}).items() >= (groups[1][part] or {}).items()
    assert groups[0]["targets"] == groups[1]["targets"] == ["Linear"]


def test_groups_are_of_int4_alone():
    with pytest.raises(ConfigError, match="group_size=64: int8 has one scale for each row"):
        FORMATS["int8"].with_options(64, False)
    with pytest.raises(ConfigError, match="group_size=48: must be one of 32, 64, 128"):
        FORMATS["int4"].with_options(48, False)
