"""Audio of any rate, sample format and number of channels into mono float32 at 16 kHz."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, groupby

import numpy as np
from av.audio.frame import AudioFrame
from av.filter import Graph
from numpy.typing import ArrayLike, NDArray

from octavo.errors import AudioError
from octavo.speech import SAMPLE_RATE

MIN_RATE, MAX_RATE = 4_000, 384_000
MAX_CHANNELS = 8
MAX_AMPLITUDE = 100.0  # codecs overshoot 1 by a little; integers that were only cast to float lie far above
INTEGERS = {"int16": 2**15, "int32": 2**31}  # and their full scale


def from_array(
    array: ArrayLike, rate: float, max_seconds: float | None = None, name: str = "audio"
) -> NDArray[np.float32]:
    """Samples that a user gave, as float32 [n], mono, 16 kHz; a copy.

    `array` is [samples], or [channels, samples] or [samples, channels]: the shorter axis is that of the channels, at
    most 8, which are averaged. It holds floats within about -1..1, or int16 or int32. `rate` is in samples per second.
    Raises AudioError for other shapes, types and rates, for samples that are no numbers, and beyond `max_seconds`.
    """
    rate = check_format(rate, 1, name)
    mono = _mono(np.asarray(array), name)
    if max_seconds is not None and len(mono) > max_seconds * rate:
        raise AudioError(name, f"is {len(mono) / rate:.1f} s long, and the limit is {max_seconds:g} s")
    _check_samples(mono, rate, name)
    return mono if rate == SAMPLE_RATE else np.concatenate(list(resample(_frames_of(mono, rate), name)))


def _mono(array: NDArray[np.generic], name: str) -> NDArray[np.float32]:
    if array.size == 0:
        raise AudioError(name, "is empty")
    if array.ndim not in (1, 2) or (min(array.shape) > MAX_CHANNELS and array.ndim == 2):
        expected = f"[samples], or [channels, samples] with at most {MAX_CHANNELS} channels"
        raise AudioError(name, f"its shape must be {expected}, got {list(array.shape)}")
    if array.dtype.kind != "f" and array.dtype.name not in INTEGERS:
        raise AudioError(name, f"its dtype must be float, int16 or int32, got {array.dtype}")
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        samples = array.astype(np.float32)
    samples *= np.float32(1 / INTEGERS.get(array.dtype.name, 1))
    return samples if array.ndim == 1 else samples.mean(axis=int(np.argmin(array.shape)), dtype=np.float32)


def _frames_of(mono: NDArray[np.float32], rate: int) -> Iterator[AudioFrame]:
    """Frames of a second each, so that nothing large is held twice."""
    for start in range(0, len(mono), rate):
        frame = AudioFrame.from_ndarray(mono[None, start : start + rate], format="flt", layout="mono")
        frame.sample_rate = rate
        yield frame


def check_format(rate: float, num_channels: int, name: str) -> int:
    """The rate. Raises AudioError for one that no audio has, and for too many channels."""
    if not MIN_RATE <= rate <= MAX_RATE or rate != int(rate):
        raise AudioError(name, f"its sample rate must be {MIN_RATE} to {MAX_RATE} Hz, got {rate}")
    if num_channels > MAX_CHANNELS:
        raise AudioError(name, f"has {num_channels} channels, and at most {MAX_CHANNELS} are supported")
    return int(rate)


def _check_samples(samples: NDArray[np.float32], rate: int, name: str, start: int = 0) -> None:
    """Raises AudioError for NaN, infinity and what is no amplitude; `start` is the position of the first sample."""
    bad = ~(np.abs(samples) <= MAX_AMPLITUDE)
    if bad.any():
        first = int(np.argmax(bad))
        where = f"sample {start + first} (at {(start + first) / rate:.3f} s)"
        raise AudioError(name, f"{where} is {samples[first]:g}; samples must be numbers within about -1..1")


def resample(frames: Iterable[AudioFrame], name: str) -> Iterator[NDArray[np.float32]]:
    """The same audio in pieces, float32 [n], mono, 16 kHz. Frames may change their format on the way.

    Stereo is averaged, and so are channels of unknown places; surround sound is mixed as its standard says. Raises
    AudioError for rates, numbers of channels and samples that are refused.
    """
    position = 0
    for (rate, layout, num_channels, sample_format), group in groupby(frames, _format):
        check_format(rate, num_channels, name)
        graph = _graph(rate, layout, num_channels, sample_format)
        for frame in chain(group, [None]):  # None: the rest
            graph.push(frame)
            for piece in _pull(graph):
                _check_samples(piece, SAMPLE_RATE, name, position)
                position += len(piece)
                yield piece


def _format(frame: AudioFrame) -> tuple[int, str, int, str]:
    return frame.sample_rate, frame.layout.name, frame.layout.nb_channels, frame.format.name


def _graph(rate: int, layout: str, num_channels: int, sample_format: str) -> Graph:
    graph = Graph()
    graph.threads = 1
    nodes = [graph.add_abuffer(sample_rate=rate, format=sample_format, layout=layout)]
    if num_channels > 2 and layout == f"{num_channels} channels":  # no places: swresample would guess some
        nodes.append(graph.add("pan", "mono|c0<" + "+".join(f"c{i}" for i in range(num_channels))))
    # Gains are scaled to a sum of at most 1, so that the mix of full channels is not clipped.
    nodes.append(graph.add("aresample", f"{SAMPLE_RATE}:out_chlayout=mono:out_sample_fmt=flt:rematrix_maxval=1"))
    nodes.append(graph.add("abuffersink"))
    graph.link_nodes(*nodes).configure()
    return graph


def _pull(graph: Graph) -> Iterator[NDArray[np.float32]]:
    while True:
        try:
            frame = graph.pull()
        except (BlockingIOError, EOFError):  # it wants more, or has no more
            return
        assert isinstance(frame, AudioFrame)
        yield frame.to_ndarray()[0]
