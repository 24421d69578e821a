"""`octavo transcribe FILE…`: what is said in audio files, as text or subtitles."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo.cli.flag import Flag, positive
from octavo.cli.inputs import missing
from octavo.cli.options import add_engine_flags, add_flags, engine_options, options_of, report_notes
from octavo.cli.parser import Parser, UsageError
from octavo.speech.formats import FORMATS, write

if TYPE_CHECKING:
    from octavo.speech.reading import Reading

DESCRIPTION = (
    "Writes down what is said in audio files of any kind, side by side. Text goes to stdout, or with -o into a file "
    "for each. A FILE of - is read from stdin. The model is Whisper tiny.en unless --model names another."
)
FLAGS = (  # by the names of TranscribeOptions
    Flag("language", str, "NAME", "the language that is spoken, as en or English; left out, it is detected"),
    Flag("prompt", str, "TEXT", "what was said before, or names and spellings to expect"),
    Flag("temperature", float, "T", "the only temperature; left out, 0, and higher ones where a text looks wrong"),
    Flag("beam_size", positive, "N", "the beams of a beam search (1)"),
    Flag("sequential", None, None, "begin each window of 30 s where the last one's text ended, instead of in a pause"),
)
DEFAULT_MODEL = "openai/whisper-tiny.en"
BAD_FILE = 2


def main(argv: Sequence[str]) -> int:
    args = _parser().parse(argv)
    given = _check(args)
    report_notes()
    # Importing the decoder of audio and loading the model both take a while: they run at once.
    threading.Thread(target=import_module, args=("octavo.speech.decode",), daemon=True).start()

    from octavo.llm import LLM
    from octavo.speech.job import TranscribeOptions

    wanted = _options(args)
    TranscribeOptions(**wanted)  # raises for bad ones before anything is loaded
    there = [(file, place) for file, place in given if _is_there(file)]
    if not there:
        return BAD_FILE
    _make_folder(args.output_dir)
    llm = LLM(**{"model": DEFAULT_MODEL, "max_num_seqs": 32, **engine_options(args)})
    files = [file for file, _ in there]
    audios = [sys.stdin.buffer.read() if file == "-" else Path(file) for file in files]
    begin = time.monotonic()
    with _bar(files) if sys.stderr.isatty() else nullcontext() as bar:
        results = llm.transcribe(audios, progress=partial(_show, bar), **wanted)
    seconds = time.monotonic() - begin
    for (file, place), result in zip(there, results, strict=True):
        if result.error is not None:
            print(f"octavo: {result.error}", file=sys.stderr)
            continue
        text = write(result, args.format, words=args.word_timestamps)
        if place is not None:
            place.write_text(text, encoding="utf-8")
        else:
            if len(files) > 1 and args.format not in ("json", "verbose_json"):
                print(f"==> {file} <==")
            print(text, end="", flush=True)
    length = sum(result.duration for result in results if result.error is None)
    print(f"{length:.1f} s of audio in {seconds:.2f} s · {length / seconds:.0f}x real time", file=sys.stderr)
    return BAD_FILE if len(there) < len(given) or any(result.error is not None for result in results) else 0


def _parser() -> Parser:
    parser = Parser("octavo transcribe", "[flags] FILE…", DESCRIPTION)
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio, or video with sound")
    group = add_flags(parser, "transcription", FLAGS)
    group.add_argument("--format", choices=list(FORMATS), default="text", help="the format of what is written (text)")
    folder = "a folder that gets a file for each FILE"
    group.add_argument("-o", "--output-dir", type=Path, default=None, metavar="DIR", help=folder)
    words = "add the times of words, in verbose_json"
    group.add_argument("--word-timestamps", action="store_true", default=False, help=words)
    add_engine_flags(parser)
    return parser


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """What TranscribeOptions is made of: what was typed, and what the format needs."""
    given = options_of(args, FLAGS)
    needs_times = FORMATS[args.format].timed or given.get("sequential", False)
    if getattr(args, "task", "auto").startswith("transl"):
        given["task"] = "translate"
    return {**given, "timestamps": needs_times, "word_timestamps": args.word_timestamps}


def _check(args: argparse.Namespace) -> list[tuple[str, Path | None]]:
    """Each file, and where its text goes, None for stdout. Raises UsageError before anything is loaded."""
    if args.word_timestamps and args.format != "verbose_json":
        raise UsageError(f"--word-timestamps needs --format verbose_json: {args.format} has no place for them")
    if args.files.count("-") > 1:
        raise UsageError("- is given twice, but there is one stdin")
    if args.output_dir is None:
        return [(file, None) for file in args.files]
    suffix = FORMATS[args.format].suffix
    names = ["stdin" if file == "-" else Path(file).stem for file in args.files]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"-o: several files would be written to {twice[0]}{suffix}; rename one")
    places = [args.output_dir / f"{name}{suffix}" for name in names]
    return list(zip(args.files, places, strict=True))


def _is_there(file: str) -> bool:
    """Whether it can be read from; says so if not."""
    reason = None if file == "-" else missing(Path(file))
    if reason is None:
        return True
    print(f"octavo: {file}: {reason}", file=sys.stderr)
    return False


def _make_folder(folder: Path | None) -> None:
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"-o {folder}: can't be made: {error.strerror}") from None


def _bar(files: Sequence[str]) -> Any:
    """A progress bar over seconds of audio."""
    from tqdm import tqdm

    from octavo.speech.decode import claimed_seconds

    claims = [None if file == "-" else claimed_seconds(Path(file)) for file in files]
    total = None if None in claims else round(sum(claim or 0.0 for claim in claims), 1)
    form = "{l_bar}{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]" if total else None
    return tqdm(total=total, unit="s", bar_format=form, leave=False)


def _show(bar: Any, readings: Sequence[Reading]) -> None:
    if bar is not None:
        seconds = sum(reading.seconds_done for reading in readings)
        bar.n = seconds if bar.total is None else min(seconds, bar.total)
        bar.refresh()
