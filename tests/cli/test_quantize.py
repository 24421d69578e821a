"""`octavo quantize`: its flags, its table, and its mistakes."""

import json

import pytest

from octavo.cli.main import main

from .processes import Terminal, octavo

MISTAKES = {  # arguments, where {model} is a good one: what the line says
    "{model}": "the following arguments are required: OUT",
    "/nowhere/model {out}": "/nowhere/model",
    "{model} {model}": "OUT='{model}': is not empty; give a new directory",
    "{model} {out} --format int3": "--format: invalid choice: 'int3'",
    "{model} {out} --group-size 48": "--group-size 48: must be one of 32, 64, 128",
    "{model} {out} --group-size 64": "--group-size 64: does not divide the 96 columns of model.layers.0.mlp.down_proj",
    "{model} {out} --group-size 64 --format fp8": "--group-size 64: fp8 has one scale for each row",
    "{model} {out} --symmetric --format int8": "--symmetric: int8 has no zeros",
    "{model} {out} --calibration /nowhere": "--calibration '/nowhere': can't be read",
    "{model} {out} --calibration {short}": "has 5 tokens; at least 1024 are needed",
    "{model} {out} --evaluate {short} --evaluate /": "--evaluate '/': can't be read: it is a directory",
    "{model} {out} --calibration {short} --calibration-tokens 0": "--calibration-tokens 0: must be at least 1",
    "{model} {out} --calibration-tokens 512": "--calibration-tokens needs --calibration TEXT",
}


@pytest.fixture
def names(tiny, tmp_path):
    (tmp_path / "short").write_text("hello")
    return {"model": tiny, "out": str(tmp_path / "out"), "short": str(tmp_path / "short")}


@pytest.mark.parametrize(("line", "says"), MISTAKES.items())
def test_a_mistake_is_one_line_and_leaves_nothing(line, says, names, tmp_path, capsys):
    assert main(["quantize", *(word.format(**names) for word in line.split())]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert says.format(**names) in err
    assert [path.name for path in tmp_path.iterdir()] == ["short"]


def test_a_model_is_written_and_a_table_printed(names, tmp_path, capsys):
    (tmp_path / "text").write_text("It was a bright cold day in April. " * 50)
    assert main(["quantize", names["model"], names["out"], "--calibration", str(tmp_path / "text")]) == 0
    out, _ = capsys.readouterr()
    assert [line.split("  ")[0] for line in out.splitlines()] == [
        "",
        "tensors",
        "perplexity",
        "mean KL divergence",
        "likeliest token is the same",
        f"{names['out']} is ready.",
    ]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"]["config_groups"]["group_0"]["weights"]["group_size"] == 32


def test_without_a_text_it_says_how_perplexity_is_measured(names):
    result = octavo("quantize", names["model"], names["out"], "--format", "fp8")
    assert result.returncode == 0
    assert "Perplexity was not measured: --evaluate TEXT" in result.stdout
    assert result.stderr == ""


def test_help_names_the_formats():
    result = octavo("quantize", "--help")
    assert result.returncode == 0
    assert "{int4,int8,fp8,w8a16}" in result.stdout


def test_a_terminal_shows_a_bar_that_is_gone_at_the_end(names):
    with Terminal("quantize", names["model"], names["out"]) as terminal:
        lines = terminal.wait(lambda lines: lines[-1].endswith("ready."))
        assert terminal.process.wait(30) == 0
    assert not any("quantizing" in line for line in lines)
