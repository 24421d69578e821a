"""`octavo transcribe FILE…`: what is said in audio files, as text or subtitles."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo.cli.flag import positive
from octavo.cli.inputs import missing
from octavo.cli.options import add_engine_flags, engine_options, report_notes
from octavo.cli.parser import Parser, UsageError
from octavo.speech.formats import FORMATS, write

if TYPE_CHECKING:
    from octavo.speech.reading import Reading

DESCRIPTION = (
    "Writes down what is said in audio files of any kind, side by side. Text goes to stdout, or with -o into a file "
    "for each. A FILE of - is read from stdin. The model is Whisper tiny.en unless --model names another."
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
    with _Bar(files) as bar:
        results = llm.transcribe(audios, progress=bar.update, **wanted)
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
    group = parser.add_argument_group("transcription")
    group.add_argument("--format", choices=list(FORMATS), default="text", help="the format of what is written (text)")
    group.add_argument(
        "-o", "--output-dir", type=Path, default=None, metavar="DIR", help="a folder that gets a file for each FILE"
    )
    group.add_argument(
        "--language", metavar="NAME", help="the language that is spoken, as en or English; left out, it is detected"
    )
    group.add_argument("--prompt", metavar="TEXT", help="what was said before, or names and spellings to expect")
    group.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="the only temperature; left out, 0, and higher ones where a text looks wrong",
    )
    group.add_argument("--beam-size", type=positive, metavar="N", help="the beams of a beam search (1)")
    group.add_argument(
        "--word-timestamps", action="store_true", default=False, help="add the times of words, in verbose_json"
    )
    follow = "begin each window of 30 s where the text of the last one ended, instead of in a pause"
    group.add_argument("--sequential", action="store_true", help=follow)
    add_engine_flags(parser)
    return parser


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """What TranscribeOptions is made of: what was typed, and what the format needs."""
    names = ("language", "prompt", "temperature", "beam_size", "sequential")
    given = {name: getattr(args, name) for name in names if hasattr(args, name)}
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


class _Bar:
    """A progress bar over seconds of audio, on a terminal."""

    def __init__(self, files: Sequence[str]):
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            from octavo.speech.decode import claimed_seconds

            claims = [None if file == "-" else claimed_seconds(Path(file)) for file in files]
            total = None if None in claims else round(sum(claim or 0.0 for claim in claims), 1)
            form = "{l_bar}{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]" if total else None
            self._bar = tqdm(total=total, unit="s", bar_format=form, leave=False)

    def update(self, readings: Sequence[Reading]) -> None:
        if self._bar is not None:
            self._bar.n = sum(reading.seconds_done for reading in readings)
            if self._bar.total is not None:
                self._bar.n = min(self._bar.n, self._bar.total)
            self._bar.refresh()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
