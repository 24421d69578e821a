"""Audio of the kinds that people have, decoded as a stream into mono float32 at 16 kHz.

Files are hostile: what libav may do with them is in `libav.py`, and lengths are counted here, never believed.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from numpy.typing import NDArray

from octavo.errors import AudioError
from octavo.speech import SAMPLE_RATE
from octavo.speech.libav import CODECS, cannot_read, open_container
from octavo.speech.resample import check_format, resample

Source = str | Path | bytes | IO[bytes]


def decode(
    source: Source, max_seconds: float | None = None, chunk_seconds: float = 30.0, name: str | None = None
) -> Generator[NDArray[np.float32], None, None]:
    """Chunks of a file's first audio stream, float32 [n], mono, 16 kHz, each `chunk_seconds` long but the last.

    `source` is a path, the file's bytes, or a binary file object, which is read from its start and stays open. `name`
    stands for it in errors. Memory holds one chunk. Of a file whose end is missing, what is there is used.

    Raises AudioError, maybe after some chunks: the source can't be read, is empty or no audio, has no audio stream,
    more than 8 channels, a sample rate outside 4..384 kHz, samples that are no numbers, more damaged packets than good
    ones, or more than `max_seconds` of audio.
    """
    if isinstance(source, str | Path):
        name = name or Path(source).name
        with _open_path(Path(source), name) as file:
            yield from _decode_file(file, name, max_seconds, chunk_seconds)
    else:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        yield from _decode_file(file, name or "audio", max_seconds, chunk_seconds)


def read_audio(source: Source, max_seconds: float | None = None, name: str | None = None) -> NDArray[np.float32]:
    """The whole of a file, float32 [n], mono, 16 kHz; otherwise as `decode`."""
    return np.concatenate(list(decode(source, max_seconds, name=name)))


def claimed_seconds(path: Path) -> float | None:
    """What a file says of its length; None where it says nothing, or is no audio. For progress bars: it may lie."""
    try:
        with _open_path(path, path.name) as file, closing(open_container(file, path.name)) as container:
            return None if container.duration is None else container.duration / 1e6
    except AudioError:
        return None


def _open_path(path: Path, name: str) -> IO[bytes]:
    try:
        return path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise AudioError(name, f"can't be opened: {getattr(error, 'strerror', None) or error}") from error


def _decode_file(
    file: IO[bytes], name: str, max_seconds: float | None, chunk_seconds: float
) -> Iterator[NDArray[np.float32]]:
    with closing(open_container(file, name)) as container:
        pieces = resample(_limited(_frames(container, name), max_seconds, name), name)
        is_empty = True
        for chunk in _chunks(pieces, max(1, round(chunk_seconds * SAMPLE_RATE))):
            is_empty = False
            yield chunk
        if is_empty:
            raise AudioError(name, "holds no audio that can be decoded")


def _frames(container: InputContainer, name: str) -> Iterator[AudioFrame]:
    """Decoded frames of the first audio stream."""
    if not container.streams.audio:
        raise AudioError(name, "has no audio stream" + (", only video" if container.streams.video else ""))
    stream = container.streams.audio[0]
    codec = stream.codec_context
    if (codec_name := codec.name if codec else "unknown") not in CODECS:
        raise AudioError(name, f"its codec is {codec_name}, which is not supported")
    check_format(codec.sample_rate, codec.layout.nb_channels, name)
    codec.thread_count = 1
    num_good = num_damaged = 0
    for packet in _packets(container, stream, name):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            num_damaged += 1
            continue
        num_good += 1
        yield from frames
    if num_damaged > num_good:
        raise AudioError(name, f"is damaged: {num_damaged} of {num_good + num_damaged} packets can't be decoded")


def _packets(container: InputContainer, stream: AudioStream, name: str) -> Iterator[Packet[AudioStream]]:
    try:
        yield from container.demux(stream)
    except av.FFmpegError:
        return  # the end of a file that was cut
    except OSError as error:
        raise cannot_read(name, error) from error


def _limited(frames: Iterable[AudioFrame], max_seconds: float | None, name: str) -> Iterator[AudioFrame]:
    """The same frames; raises AudioError once they are longer than `max_seconds`."""
    seconds = 0.0
    for frame in frames:
        seconds += frame.samples / max(1, frame.sample_rate)
        if max_seconds is not None and seconds > max_seconds + 1e-6:
            raise AudioError(name, f"is longer than {max_seconds:g} s, which is the limit")
        yield frame


def _chunks(pieces: Iterable[NDArray[np.float32]], size: int) -> Iterator[NDArray[np.float32]]:
    """The same samples in arrays of `size`; the last has the rest."""
    held: list[NDArray[np.float32]] = []
    num_held = 0
    for piece in pieces:
        held.append(piece)
        num_held += len(piece)
        if num_held >= size:
            joined = np.concatenate(held)
            whole = num_held - num_held % size
            yield from (joined[start : start + size] for start in range(0, whole, size))
            held, num_held = [joined[whole:].copy()], num_held - whole
    if num_held:
        yield np.concatenate(held)
