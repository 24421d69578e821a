"""libav, restrained: it sees bytes without name, opens nothing else, tries only the formats and codecs listed here."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import IO, Any

import av
from av.container import InputContainer

from octavo.errors import AudioError

FORMATS = ("wav", "mp3", "mov", "flac", "ogg", "matroska", "aac", "aiff", "amr")
FORMAT_NAMES = "wav, mp3, m4a, mp4, flac, ogg, opus, webm, mkv, aac, aiff and amr"
CODECS = (
    *("mp3float", "mp2float", "mp2", "aac", "alac", "flac", "opus", "vorbis", "speex", "amrnb", "amrwb", "ac3", "eac3"),
    *("pcm_u8", "pcm_s8", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be"),
    *("pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_f64be", "pcm_mulaw", "pcm_alaw", "adpcm_ms", "adpcm_ima_wav"),
)
PROBED_BYTES = 2**17  # of data beyond the headers, to find out what streams are; more would be decoded twice
# Tags need not be UTF-8. From PyAV 19 on nothing need be said of that, nor can be.
_TAGS: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
MAX_ALLOCATION = 64 * 2**20  # bytes; more than the index of 15 hours, less than what a forged length asks for


def open_container(file: IO[bytes], name: str) -> InputContainer:
    """Opens a binary file for reading, from its start. The caller closes the container; the file stays open.

    Raises AudioError if the file can't be read, is empty, or is in no format that is listed here.
    """
    _limit_allocations()
    options = {
        "format_whitelist": ",".join(FORMATS),
        "codec_whitelist": ",".join(CODECS),
        "protocol_whitelist": "none",
        "probesize": str(PROBED_BYTES),
    }
    source = _Input(file, name)
    try:
        container: InputContainer = av.open(source, "r", options=options, io_open=_refuse_to_open, **_TAGS)
        return container
    except av.FFmpegError as error:
        reason = f"is not audio that can be read, or its header is damaged; formats are {FORMAT_NAMES}"
        raise AudioError(name, "is empty" if source.is_empty else reason) from error
    except OSError as error:
        raise cannot_read(name, error) from error


def cannot_read(name: str, error: OSError) -> AudioError:
    return AudioError(name, f"can't be read: {error.strerror or error}")


def _refuse_to_open(*_: Any) -> None:
    raise PermissionError("a file must not refer to others")


class _Input:
    """A file without its name, from which libav would guess a format."""

    def __init__(self, file: IO[bytes], name: str):
        self._file, self._name = file, name
        self.is_empty = True
        if self.seekable():
            file.seek(0)

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        if not isinstance(data, bytes) or len(data) > size:  # libav's buffer has no room for more
            raise AudioError(self._name, f"its read({size}) gave no bytes, or more than that")
        self.is_empty = self.is_empty and not data
        return data

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


@cache
def _limit_allocations() -> None:
    """A few bytes of a header may claim a text of 2 GB, and libav would clear as much memory for it.

    PyAV has no name for the limit, so it is set in the library that PyAV has loaded. Only Linux says where that is.
    """
    maps = Path("/proc/self/maps")
    mapped = {line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines()} if maps.exists() else set()
    for path in mapped:
        if Path(path).name.startswith("libavutil"):
            ctypes.CDLL(path).av_max_alloc(ctypes.c_size_t(MAX_ALLOCATION))
