"""Compiles the kernels for GPUs that need not be there; prints what each takes, a JSON object by line."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from octavo.executor.torch.kernels import attention, experts, glu, norm, quantized, rope, sampling, state

ATTENTION = {
    "q": "*bf16", "k_pages": "*bf16", "v_pages": "*bf16", "out": "*bf16", "partial": "*fp32", "peaks": "*fp32",
    "sums": "*fp32", "block_tables": "*i32", "starts": "*i32", "counts": "*i32", "rows": "*i32", "slopes": "*fp32",
    "biases": "*fp32", "sinks": "*fp32", "scale": "fp32", "cap": "fp32", "reach": "i32", "bias_reach": "i32",
    "longest": "i32", "table_stride": "i32", "q_stride": "i32",
}  # fmt: skip
LLAMA = {
    "KV_HEADS": 8, "GROUP": 4, "HEAD_DIM": 128, "VALUE_DIM": 128, "BLOCK_SIZE": 32, "TILE": 64, "DIM_TILE": 128,
    "VALUE_TILE": 128, "PRECISION": "tf32", "HAS_CAP": False, "LOOKBACK": 0, "SLOPES": "none",
    "HAS_BIASES": False, "HAS_SINKS": False,
}  # fmt: skip
DECODE = LLAMA | {"TOKENS": 1, "ROWS": 16, "SPLITS": 4, "LOOKS": "all"}
CHUNK = LLAMA | {"TOKENS": 16, "ROWS": 64, "SPLITS": 1, "LOOKS": "window"}
CAPPED = CHUNK | {"HAS_CAP": True, "SLOPES": "distance", "HAS_BIASES": True, "HAS_SINKS": True}
MERGE = {"HEADS": 32, "VALUE_DIM": 128, "SPLITS": 4, "SPLIT_TILE": 4, "VALUE_TILE": 128, "HAS_SINKS": True}
NORM = {
    "x": "*fp32", "y": "*bf16", "weight": "*fp32", "total": "*fp32", "out": "*bf16", "eps": "fp32",
    "x_stride": "i32", "y_stride": "i32", "columns": "i32",
}  # fmt: skip
GLU = {"gate": "*bf16", "up": "*bf16", "out": "*bf16", "gate_stride": "i32", "up_stride": "i32", "columns": "i32"}
ROPE = {
    "q": "*bf16", "k": "*bf16", "v": "*bf16", "cos": "*fp32", "sin": "*fp32", "positions": "*i64", "slots": "*i64",
    "k_pages": "*bf16", "v_pages": "*bf16", "q_stride": "i32", "k_stride": "i32", "v_stride": "i32",
}  # fmt: skip
ROPE_SIZES = {
    "HEADS": 32, "KV_HEADS": 8, "HEAD_DIM": 128, "VALUE_DIM": 128, "PAIRS": 64, "BLOCK_SIZE": 32, "INTERLEAVED": False,
    "HEAD_TILE": 32, "KV_HEAD_TILE": 8, "DIM_TILE": 128, "PAIR_TILE": 64,
}  # fmt: skip
DRAW = {
    "logits": "*fp32", "numbers": "*fp64", "top_k": "*i32", "tokens": "*i64", "stride": "i32", "vocab": "i32",
    "draws": "i32",
}  # fmt: skip
COUNT = {"history": "*i32", "places": "*i64", "counts": "*i32", "stride": "i32", "vocab": "i32", "rows": "i32"}
PENALTIES = {
    "logits": "*fp32", "counts": "*i32", "penalties": "*fp32", "stride": "i32", "vocab": "i32", "rows": "i32",
}  # fmt: skip
DELTA = dict.fromkeys(("q", "k", "v", "g", "beta", "state", "out"), "*fp32") | {"rows": "*i64", "positions": "*i64"}
DELTA_SIZES = {"HEADS": 32, "KEY_DIM": 128, "VALUE_DIM": 128, "KEY_TILE": 128, "VALUE_TILE": 32}
PACKED = {
    "codes": "*u8", "minima": "*fp16", "scales": "*fp16", "scale_steps": "*fp16", "minimum_steps": "*fp16",
    "table": "*fp32", "x": "*bf16", "bias": "*bf16", "out": "*bf16", "partial": "*fp32", "rows": "i32",
    "columns": "i32", "inputs": "i32", "row_bytes": "i32", "groups": "i32", "steps": "i32", "out_stride": "i32",
}  # fmt: skip
CODES = {  # Q4_1 and int4 made while loading, Q4_K, Q6_K, fp8, NF4
    "uint4": {"BITS": 4, "GROUP": 32, "WIDTH": 16, "HAS_MINIMA": True},
    "uint4 k": {"BITS": 4, "GROUP": 32, "WIDTH": 32, "HAS_MINIMA": True, "HAS_STEPS": True},
    "int8 k": {"BITS": 8, "GROUP": 16, "WIDTH": 16, "HAS_STEPS": True},
    "fp8": {"BITS": 8, "GROUP": 0, "WIDTH": 128, "CODES": "e4m3"},
    "nf4": {"BITS": 4, "GROUP": 64, "WIDTH": 32, "CODES": "table", "TILE_BYTES": 64},
}
OF_CODES = {"CODES": "unsigned", "OFFSET": 0, "HAS_MINIMA": False, "HAS_STEPS": False, "TILE_BYTES": 128}
PRODUCT = {"SPLITS": 4, "HAS_BIAS": False, "TILE_ROWS": 64, "PRECISION": "tf32"}
MULTIPLES_OF_16 = ("_stride", "inputs", "row_bytes", "groups", "steps")  # and all pointers, in the models there are
KERNELS = {
    "decode": (attention.attend, ATTENTION, DECODE, {"num_warps": 4, "num_stages": 3}),
    "chunk": (attention.attend, ATTENTION, CHUNK, {"num_warps": 4, "num_stages": 3}),
    "capped": (attention.attend, ATTENTION, CAPPED, {"num_warps": 4, "num_stages": 3}),
    "merge": (attention.merge_splits, ATTENTION, MERGE, {"num_warps": 2}),
    "norm": (norm.normalise, NORM, {"HAS_SUM": True, "TILE": 4096}, {"num_warps": 16}),
    "glu": (glu.multiply, GLU, {"KIND": "gelu", "TILE": 1024}, {}),
    "rope": (rope.rotate_token, ROPE, ROPE_SIZES, {}),
    "delta": (state.step_of_head, DELTA, DELTA_SIZES, {}),
    "draw": (sampling.draw_token, DRAW, {"TILE": 4096}, {"num_warps": 16}),
    "count": (sampling.count_tokens, COUNT, {"TILE": 1024}, {}),
    "penalties": (sampling.apply_penalties, PENALTIES, {"TILE": 1024}, {}),
    "splits": (quantized.add_splits, PACKED, {"SPLITS": 4, "HAS_BIAS": True, "TILE": 1024}, {}),
}
for name, sizes in CODES.items():
    KERNELS[f"unpack {name}"] = (quantized.unpack, PACKED, OF_CODES | sizes | {"TILE_ROWS": 16}, {})
    for x, rows in (("bf16", 16), ("bf16", 32), ("bf16", 64), ("fp32", 16)):
        types, every = PACKED | {"x": f"*{x}"}, OF_CODES | sizes | PRODUCT | {"X_ROWS": rows}
        every["PRECISION"] = "ieee" if x == "fp32" else "tf32"
        options = quantized.warps_and_stages(rows)
        KERNELS[f"{name}, {rows} rows of {x}"] = (quantized.multiply, types, every, options)
EXPERTS = PACKED | {
    "matrix": "*bf16", "order": "*i64", "starts": "*i64", "factors": "*fp32", "bias": "*fp32", "experts": "i32",
}  # fmt: skip
OF_EXPERTS = {"EACH": 8, "HAS_BIAS": True, "HAS_FACTORS": True, "EXPERT_TILE": 128, "COLUMNS": 64}
for x, rows in (("bf16", 16), ("bf16", 32), ("bf16", 64), ("fp32", 16)):
    types, every = EXPERTS | {"x": f"*{x}", "matrix": f"*{x}", "out": f"*{x}"}, OF_EXPERTS | {"ROWS": rows}
    every["PRECISION"] = "ieee" if x == "fp32" else "tf32"
    options = quantized.warps_and_stages(rows)
    KERNELS[f"experts, {rows} rows of {x}"] = (experts.multiply, types, every | {"INPUTS": 64}, options)
    for name, sizes in CODES.items():
        sizes = sizes | {"TILE_BYTES": 64 if sizes["BITS"] == 4 else 128}
        KERNELS[f"experts of {name}, {rows} rows of {x}"] = (
            experts.multiply_packed, types, every | OF_CODES | sizes, options,
        )  # fmt: skip


def compile_kernel(name, capability):
    function, types, sizes, options = KERNELS[name]
    signature = {name: "constexpr" if name in sizes else types[name] for name in function.arg_names}
    aligned = [
        i for i, name in enumerate(function.arg_names) if signature[name][0] == "*" or name.endswith(MULTIPLES_OF_16)
    ]
    source = ASTSource(
        fn=function, signature=signature, constexprs=sizes, attrs={(i,): [["tt.divisibility", 16]] for i in aligned}
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(compiled):
    """Registers and bytes of stack, as the assembler has decided."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        text = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
    found = dict(word.split(":", 1) for word in text.split() if word.startswith(("REG:", "STACK:")))
    return {"registers": int(found["REG"]), "stack": int(found["STACK"])}


if __name__ == "__main__":
    for name in KERNELS:
        compiled = compile_kernel(name, int(sys.argv[1]))
        print(json.dumps({"kernel": name, "shared": compiled.metadata.shared, **resources(compiled)}))
