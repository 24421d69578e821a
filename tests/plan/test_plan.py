"""What is planned: sizes and machines as they are written, a configuration alone, and commands that do fit."""

import json
import shlex

import pytest

from cli.conftest import make_tiny_llama
from families import FAMILIES
from file_server import FileServer, serving
from hybrid_families import HYBRIDS
from octavo import LLM
from octavo.cli.main import main
from octavo.config import EngineConfig
from octavo.engine.planning import declare_model
from octavo.errors import ConfigError, MemoryPlanError
from octavo.models import open_model
from octavo.plan import limits, machines
from octavo.plan.declared import open_config
from octavo.plan.estimate import EVERYTHING, estimate, two_lines
from octavo.weights.source import resolve

GIB = 1 << 30
MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32768,
}
MIXTRAL = MISTRAL | {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "vocab_size": 32000,
}
T4 = ["--machine", "T4", "--memory", "14.56GiB", "--dtype=half", "--gpu-memory-utilization", "0.7"]


@pytest.fixture(autouse=True)
def known_limits(tmp_path, monkeypatch):
    """Rates of a machine that is always the same; nothing is measured."""
    found = limits.Limits(50e9, dict.fromkeys(["bfloat16", "float32"], 1e12))
    monkeypatch.setattr("octavo.plan.speed.limits", lambda names: limits.Limits(50e9, dict.fromkeys(names, 1e12)))
    monkeypatch.setattr("octavo.plan.speed.known_limits", lambda names: found)


@pytest.fixture
def config(tmp_path):
    """Writes a configuration, and returns its path."""

    def write(values):
        (tmp_path / "config.json").write_text(json.dumps(values))
        return str(tmp_path / "config.json")

    return write


def planned(capsys, *arguments, code=0):
    assert main(["plan", "--json", *arguments]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("14.56GiB", int(14.56 * GIB)),
        ("16GB", 16 * 10**9),
        ("16 gb", 16 * 10**9),
        ("32G", 32 * GIB),
        ("900M", 900 << 20),
        ("2TiB", 2 << 40),
        ("1048576", 1 << 20),
        ("512B", 512),
    ],
)
def test_sizes_are_as_they_are_written(text, size):
    assert machines.memory_size("memory", text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "1.5.0GB", "16Gbit", "1e9", "16XB", "nan"])
def test_what_is_no_size_is_refused(text, capsys):
    with pytest.raises(ConfigError, match=r"must be a size, as 14\.56GiB"):
        machines.memory_size("memory", text)


def test_machines_have_a_name_and_a_memory():
    assert machines.find_machine("T4").memory == 16 * 10**9
    assert machines.find_machine("nvidia-tesla t4:14.56GiB").memory == int(14.56 * GIB)
    assert machines.find_machine("A100-40GB").memory == 40 * 10**9
    assert machines.find_machine("H100", "70GB").memory == 70 * 10**9
    assert machines.find_machine("cpu:32GiB").memory == 32 * GIB
    assert machines.find_machine(None) is None
    with pytest.raises(ConfigError, match=r"is not known; known are CPU, T4, .+T4:16GB; did you mean H\d00\?"):
        machines.find_machine("H101")


@pytest.mark.parametrize(
    ("name", "memory", "known"),
    [
        ("Tesla T4", 14.56, "T4"),
        ("NVIDIA GeForce RTX 4090", 23.6, "RTX4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 15.7, None),
        ("NVIDIA A10G", 22.1, "A10G"),
        ("NVIDIA A10", 22.5, "A10"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "A100-40GB"),
        ("NVIDIA A100 80GB PCIe", 79.2, "A100"),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", 9.5, None),
        ("NVIDIA RTX A6000", 47.4, "A6000"),
        ("NVIDIA L40S", 44.4, "L40S"),
        ("NVIDIA H100 80GB HBM3", 79.1, "H100"),
        ("NVIDIA GB200", 184.0, None),
    ],
)
def test_gpus_are_known_by_what_drivers_call_them(name, memory, known):
    found = machines.known_gpu(name, int(memory * GIB))
    assert (found.name if found else None) == known


def test_what_is_secret_in_a_url_is_in_no_plan(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "cache"))
    files = FileServer()
    files.files = {f"/{path.name}": path.read_bytes() for path in make_tiny_llama(tmp_path / "tiny").iterdir()}
    with serving(files) as url:
        reference = f"{url.replace('//', '//user:pa55@')}/config.json?signature=pa55"
        resolve(reference, progress=False)
    found = planned(capsys, reference)
    assert found["commands"] == [f"octavo serve {url}/config.json"]
    assert found["model"] == f"{url}/config.json"
    assert "pa55" not in json.dumps(found)
    assert main(["plan", reference]) == 0
    assert "pa55" not in capsys.readouterr().out


def test_types_are_those_of_the_machine():
    t4, h100, cpu = machines.GPUS["T4"], machines.GPUS["H100"], machines.find_machine("CPU:1GiB")
    assert [one.place().dtype for one in (t4, h100, cpu)] == ["float16", "bfloat16", "bfloat16"]
    assert cpu.place(dtype="half").dtype == "bfloat16"
    for machine, options in ((t4, {"dtype": "bfloat16"}), (t4, {"device": "cpu"}), (h100, {"executor": "native"})):
        with pytest.raises(ConfigError):
            machine.place(**options)


@pytest.mark.parametrize("name", ["Gemma 2", "Gemma 4 26B-A4B", "Apertus", "LFM2-MoE", "OLMo Hybrid"])
def test_a_configuration_alone_is_planned_as_the_whole_checkpoint(name, tmp_path):
    {**FAMILIES, **HYBRIDS}[name].save(tmp_path)
    asked = EngineConfig(dtype="float32")
    whole, alone = (declare_model(asked, one) for one in (open_model(tmp_path), open_config(tmp_path / "config.json")))
    assert alone.memory_plan(EVERYTHING) == whole.memory_plan(EVERYTHING)


def test_a_quantized_configuration_has_quantized_weights(config, capsys):
    quantized = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    plain, packed = (
        planned(capsys, "--config", config(values), "--memory", "64GiB")
        for values in (MISTRAL, MISTRAL | {"quantization_config": quantized})
    )
    assert packed["about"]["quantization"] == "gptq"
    assert packed["about"]["stored"]["U4_G128"] > 3 * 10**9
    assert plain["asked"]["weights"] > 13 * GIB
    assert packed["asked"]["weights"] < 5 * GIB


def test_mistral_on_a_t4_ends_in_advice_that_fits(config, capsys):
    file = config(MISTRAL)
    found = planned(capsys, "--config", file, *T4, code=2)
    assert not found["fits"]
    assert found["asked"]["weights"] > 13 * GIB
    assert found["ways"] == [{"quantization": "int8"}]
    fits = planned(capsys, "--config", file, *T4, *flags_of(found["commands"][0]))
    assert fits["fits"]
    assert fits["asked"]["total"] <= 0.7 * 14.56 * GIB
    assert main(["plan", "--config", file, *T4]) == 2
    out = capsys.readouterr().out
    assert "It does not fit as asked.\nThis does, with quantization int8:\n  octavo serve MODEL" in out
    assert max(map(len, out.splitlines())) < 180


def test_mixtral_fits_no_t4_in_any_format_and_says_where_it_would(config, capsys):
    found = planned(capsys, "--config", config(MIXTRAL), *T4, code=2)
    assert (found["ways"], found["commands"]) == ([], [])
    assert found["about"]["kind"] == "experts"
    assert round(found["about"]["parameters"] / 1e9, 1) == 46.7
    assert found["fitting_machines"] == ["H200", "B200"]
    assert not any(row["fits"] for row in found["others"])
    assert {row["label"] for row in found["others"]} >= {"int8 at load", "int4 at load", "fp8 at load"}


def flags_of(command):
    words = shlex.split(command)
    assert words[:3] == ["octavo", "serve", "MODEL"]
    return words[3:]


ASKED = {
    "a long context": (["--max-model-len", "32768"], "16GiB"),
    "little memory": ([], "9GiB"),
    "room for short texts": (["--max-model-len", "32768"], "17GiB"),
    "many at once": (["--max-num-seqs", "512", "--max-num-batched-tokens", "65536"], "18GiB"),
}


@pytest.mark.parametrize("case", ASKED)
def test_every_command_that_is_advised_fits(case, config, capsys):
    flags, memory = ASKED[case]
    common = ["--config", config(MISTRAL), "--machine", f"CPU:{memory}"]
    found = planned(capsys, *common, *flags, code=2)
    assert found["commands"]
    for command in found["commands"]:
        again = planned(capsys, *common, *flags_of(command))
        assert again["asked"]["fits"], command
        assert again["asked"]["total"] <= 0.9 * machines.memory_size("memory", memory)


def test_what_fits_has_the_command_that_was_asked_for(config, capsys):
    found = planned(capsys, "--config", config(MISTRAL), "--machine", "H100", "--max-model-len", "4096")
    assert found["commands"] == ["octavo serve MODEL --max-model-len 4096"]
    asked = found["asked"]
    assert (asked["device"], asked["dtype"], asked["asked_len"]) == ("cuda", "bfloat16", 4096)
    assert asked["kv_per_token"] == 32 * 2 * 8 * 128 * 2
    assert asked["speed"]["decode_alone"] == pytest.approx(3350 * 0.7 / 14.5, rel=0.2)


@pytest.mark.parametrize("said", [[], ["--max-num-seqs=16", "--max-num-batched-tokens=1024"]])
def test_another_device_in_a_table_is_planned_as_by_its_name(said, config, capsys):
    """Each with the defaults of its own device, unless something else was asked for."""
    arguments = ["--config", config(MISTRAL), "--max-model-len", "2048", *said]
    on_cpu = planned(capsys, *arguments, "--machine", "CPU:64GiB")
    there = next(row for row in on_cpu["others"] if row["label"].endswith(", as stored"))
    on_gpu = planned(capsys, *arguments, "--machine", there["label"].partition(",")[0])
    here = next(row for row in on_gpu["others"] if row["label"] == "this machine's CPU")
    assert there["workspace"] == on_gpu["asked"]["workspace"]
    assert here["workspace"] == on_cpu["asked"]["workspace"]


def test_loading_refuses_with_the_same_advice_as_the_plan(tmp_path, monkeypatch, capsys):
    model = make_tiny_llama(tmp_path / "m", max_position_embeddings=1 << 15)
    flags = ["--gpu-memory-utilization", "1.0", "--max-num-seqs", "2", "--max-model-len", "32768"]
    asked = planned(capsys, str(model), *flags)["asked"]
    free = (100 << 20) + asked["weights"] + asked["workspace"] + asked["kv_cache"] // 4
    monkeypatch.setattr("octavo.engine.backend.free_memory", lambda: free)
    with pytest.raises(MemoryPlanError) as caught:
        LLM(str(model), max_model_len=1 << 15, gpu_memory_utilization=1.0, max_num_seqs=2)
    flags = ["--gpu-memory-utilization", "1.0", "--max-num-seqs", "2", "--max-model-len", "32768"]
    found = planned(capsys, str(model), "--memory", f"{free}B", *flags, code=2)
    for changes in found["ways"]:
        assert " ".join(f"{name}={value}" for name, value in changes.items()) in str(caught.value)
    assert found["ways"]
    assert str(caught.value).endswith(" would fit")
    LLM(str(model), gpu_memory_utilization=1.0, **{"max_num_seqs": 2, "max_model_len": 1 << 15, **found["ways"][-1]})


def test_the_plan_of_a_model_is_what_its_loading_says(tmp_path, capsys):
    model = make_tiny_llama(tmp_path / "m")
    found = planned(capsys, str(model), "--max-num-seqs", "4", "--dtype", "float32")["asked"]
    memory = LLM(str(model), max_num_seqs=4, dtype="float32").model.plan
    assert (found["weights"], found["kv_cache"]) == (memory.weights, memory.kv_cache)
    assert found["workspace"] == memory.workspace - (100 << 20)


def test_a_prefix_cache_on_disk_takes_memory_of_the_process_alone(tmp_path):
    checkpoint, machine = open_model(make_tiny_llama(tmp_path / "m")), machines.this_cpu()
    found, said = [], []
    for folder in (None, str(tmp_path / "kept")):
        config = EngineConfig(model=str(tmp_path / "m"), dtype="float32", prefix_cache_dir=folder)
        asked, declared, memory = estimate(config, checkpoint, machine, measures=False)
        found.append(asked)
        said.append(two_lines(declared, memory)[0].split(" + "))
    without, kept = found
    assert kept.process - without.process == 96 << 20
    assert kept.workspace == without.workspace
    assert [one == other for one, other in zip(*said, strict=True)][:3] == [True, True, False]


BAD = {
    "broken JSON": ("{", "config.json: file: invalid JSON"),
    "a field": (MISTRAL | {"num_hidden_layers": "many"}, "config.json: num_hidden_layers: must be an integer"),
    "no architecture": ({"model_type": "x"}, "config.json: architectures: must name an architecture"),
    "a type": (MISTRAL | {"torch_dtype": "int3"}, "config.json: torch_dtype: must be one of float32"),
    "a method": (MISTRAL | {"quantization_config": {"quant_method": "magic"}}, "quantization_config.quant_method"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_broken_configuration_is_one_line_that_names_the_field(case, config, capsys):
    values, reason = BAD[case]
    file = config(values)
    if isinstance(values, str):
        with open(file, "w") as written:
            written.write(values)
    assert main(["plan", "--config", file]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert reason in err


FLAGS = {
    "--machine H1000": "--machine H1000: is not known; known are CPU, T4",
    "--memory much": "--memory much: must be a size, as 14.56GiB",
    "--machine T4:lots": "--machine T4:lots: must be a size",
    "--config /nowhere.json": "--config /nowhere.json: there is no such file",
    "--machine T4 --dtype bfloat16": "--dtype bfloat16: T4 lacks it; say half or float32",
    "./nowhere": "./nowhere does not exist",
}


@pytest.mark.parametrize("flags", FLAGS)
def test_a_mistake_is_one_line_and_code_2(flags, capsys):
    assert main(["plan", *flags.split()]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert FLAGS[flags] in err.replace("'", "")


def test_a_model_and_a_configuration_together_are_refused(config, capsys):
    assert main(["plan", "org/model", "--config", config(MISTRAL)]) == 2
    assert "describes a model by itself: leave out org/model" in capsys.readouterr().err


def test_limits_are_kept_and_the_best_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "cache"))
    rates = iter([10e9, 30e9, 20e9, 5e9, 25e9])
    monkeypatch.setattr(limits, "measured_bandwidth", lambda: next(rates))
    monkeypatch.setattr(limits._native, "matmul_flops", lambda name: 1e12)
    assert limits.known_limits(["bfloat16"]) is None
    seen = []
    for _ in range(limits.TRIES + 1):
        limits._measured.cache_clear()
        seen.append(limits.limits(["bfloat16"]).bandwidth)
    assert seen == [10e9, *[30e9] * limits.TRIES]
    assert limits.known_limits(["bfloat16"]) == limits.Limits(30e9, {"bfloat16": 1e12})
    assert limits.known_limits(["int8"]) is None
    (tmp_path / "cache" / limits.FILE).write_text("[]")
    limits._measured.cache_clear()
    assert limits.known_limits(["bfloat16"]) is None
