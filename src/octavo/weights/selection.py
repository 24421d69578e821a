"""Which files of a repository, a folder or an archive are the model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from octavo.errors import ModelNotFoundError

# A model.bin is CTranslate2's; pickles have other names, and are refused under this one.
PATTERNS = [
    "*.safetensors", "model.bin", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocabulary.txt",
    "colbert_linear.pt", "sparse_linear.pt",
]  # fmt: skip
_SPLIT = re.compile(r"-[0-9]{5}-of-([0-9]{5})$")
PICKLES = "pickled weights, *.bin, are never loaded"


@dataclass(frozen=True, slots=True)
class Selection:
    """All that a model needs, or one .gguf file: `file`, or the one of a `quantization`.

    `name` is what users call the whole. `anywhere`: the model may be a lone GGUF file, or lie in a folder of its own.
    """

    name: str
    file: str | None = None
    quantization: str | None = None
    anywhere: bool = False

    def patterns(self) -> list[str]:
        """Which files are needed, as shells match names."""
        if self.file is not None:
            return [self.file, _SPLIT.sub("-*-of-*", self.file.removesuffix(".gguf")) + ".gguf"]
        if self.quantization is not None:
            tags = {self.quantization, self.quantization.upper(), self.quantization.lower()}
            return [f"*{tag}*.gguf" for tag in sorted(tags)]
        return PATTERNS + ["*.gguf"] * self.anywhere

    def choose(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that are needed. Raises ModelNotFoundError if they are no model."""
        found = sorted(name for name in names if any(fnmatchcase(name, pattern) for pattern in self.patterns()))
        self._main(found)
        weights = [name for name in found if has_weights(name)]
        if self.file is None and self.quantization is None and any(not name.endswith(".gguf") for name in weights):
            return [name for name in found if not name.endswith(".gguf")]
        return found

    def path(self, folder: Path) -> Path:
        """What is to be loaded of the files in `folder`: the folder, or a .gguf file. Raises ModelNotFoundError."""
        return folder / self._main([str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()])

    def _main(self, names: Sequence[str]) -> str:
        """The file or folder that is to be loaded."""
        ggufs = [name for name in names if name.endswith(".gguf")]
        if self.file is not None:
            if self.file not in names:
                raise ModelNotFoundError(f"{self.name} has no file {self.file}")
            return self.file
        if self.quantization is not None:
            return self.quantized(ggufs)
        if any(map(_is_folder_weight, names)):
            return "."
        if self.anywhere:
            if len(folders := model_folders(name for name in names if not name.endswith(".gguf"))) == 1:
                return str(folders[0])
            if ggufs and not folders:
                return self._lone(ggufs)
            if folders:
                raise ModelNotFoundError(f"{self.name} has several models: {', '.join(map(str, folders[:8]))}")
            raise ModelNotFoundError(f"{self.name} has neither safetensors nor GGUF files ({PICKLES})")
        raise ModelNotFoundError(
            f"{self.name} has no safetensors; if it has GGUF files, pick one: {self.name}:Q4_K_M or "
            f"{self.name}/FILE.gguf ({PICKLES})"
        )

    def quantized(self, ggufs: Iterable[str]) -> str:
        """The one whose name ends with the quantization, or the first part of it. Raises ModelNotFoundError."""
        ending = re.compile(rf"(^|[-._]){re.escape(self.quantization or '')}(-00001-of-[0-9]{{5}})?$", re.IGNORECASE)
        found = [name for name in sorted(ggufs) if ending.search(PurePosixPath(name).stem)]
        if len(found) != 1:
            names = ", ".join(found[:8]) or "none"
            raise ModelNotFoundError(
                f"{self.name} must have one GGUF file of quantization {self.quantization}, found {names}; "
                f"name the file: {self.name}/FILE.gguf"
            )
        return found[0]

    def _lone(self, ggufs: Sequence[str]) -> str:
        first = [name for name in sorted(ggufs) if parts_of(name)[0] == name]
        if len(first) != 1:
            names = ", ".join(ggufs[:8])
            raise ModelNotFoundError(f"{self.name} has several GGUF files, name one: {self.name}/FILE.gguf of {names}")
        return first[0]


def parts_of(name: str) -> list[str]:
    """All files of a GGUF file that may be split: NAME-00001-of-00003.gguf has three."""
    stem = name.removesuffix(".gguf")
    match = _SPLIT.search(stem)
    if match is None or not 1 <= (count := int(match[1])) <= 1000:
        return [name]
    return [f"{stem[: match.start()]}-{i:05}-of-{match[1]}.gguf" for i in range(1, count + 1)]


def is_model_file(name: str) -> bool:
    return name.endswith(".gguf") or any(fnmatchcase(PurePosixPath(name).name, pattern) for pattern in PATTERNS)


def has_weights(name: str) -> bool:
    return name.endswith((".gguf", ".safetensors")) or PurePosixPath(name).name == "model.bin"


def model_folders(names: Iterable[str]) -> list[PurePosixPath]:
    """The folders with a config.json and weights that are in no other such folder."""
    folders: dict[PurePosixPath, set[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        folders.setdefault(path.parent, set()).add(path.name)
    found = [path for path, files in folders.items() if "config.json" in files and any(map(has_weights, files))]
    return [path for path in found if not any(parent in found for parent in path.parents)]


def _is_folder_weight(name: str) -> bool:
    """Whether it is loaded with its folder; of those in folders of the folder, the loader reads what it knows."""
    return "/" not in name and (name.endswith(".safetensors") or name == "model.bin")
