"""What a method of quantization is: the tensors that it makes of a matrix, and how the matrix is found in them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from octavo.errors import ModelLoadError
from octavo.weights.config_reader import ConfigReader
from octavo.weights.dtypes import array_of, floats
from octavo.weights.quantized.groups import Groups, Indices, rearranged
from octavo.weights.tensor import StoredTensor

SCALE_DTYPES = ("F32", "F16", "BF16")
MAX_COLUMNS = 1 << 22
MAX_SCALE = 1e30  # so that products stay finite
_AT_ONCE = 1 << 20  # scales that are looked at
Shape = tuple[int | None, ...]  # None: any size


class Method:
    """A method of quantization, as a checkpoint's configuration has it. Subclasses read the tensors of one each.

    `names` are those of `quant_method`, the method's own first; `options` those that vLLM's `--quantization` has for
    it besides. A matrix X is quantized if there are tensors X + one of `suffixes`; its X + `weight` is then theirs too,
    and what comes of them is called so.
    """

    known: ClassVar[list[type[Method]]] = []  # all subclasses that have names, those of plugins too

    names: ClassVar[tuple[str, ...]]
    options: ClassVar[tuple[str, ...]] = ()
    suffixes: ClassVar[tuple[str, ...]]
    weight: ClassVar[str] = ".weight"

    def __init_subclass__(cls) -> None:
        if "names" in vars(cls):
            cls.known.append(cls)

    def __init__(self, config: ConfigReader):
        """Raises ModelLoadError for what is not supported."""
        self.name = self.names[0]  # as `--quantization` may have it

    def read(self, parts: Parts) -> StoredTensor:
        """The matrix. Raises ModelLoadError."""
        raise NotImplementedError


class Parts:
    """The tensors of one matrix, by suffix. What is wrong with one is a ModelLoadError that names it."""

    def __init__(self, module: str, weight: str, tensors: Mapping[str, StoredTensor]):
        self.module, self.name, self._tensors = module, module + weight, tensors
        self._taken: set[str] = set()

    def __contains__(self, suffix: str) -> bool:
        return suffix in self._tensors

    def place(self, suffix: str) -> tuple[Path, str]:
        """The file and the name of a part, which may be missing."""
        one = self._tensors.get(suffix) or next(iter(self._tensors.values()))
        return one.file, self.module + suffix

    def fail(self, suffix: str, reason: str) -> ModelLoadError:
        return ModelLoadError(*self.place(suffix), reason)

    def dtype(self, suffix: str) -> str:
        return self._tensor(suffix).format

    def array(self, suffix: str, dtypes: tuple[str, ...], *shapes: Shape) -> NDArray[Any]:
        """The numbers of a part, of one of the data types and shapes, and not empty."""
        tensor = self._tensor(suffix)
        if tensor.format not in dtypes:
            raise self.fail(suffix, f"is {tensor.format}, not {' or '.join(dtypes)}")
        if 0 in tensor.shape or not any(_matches(tensor.shape, shape) for shape in shapes):
            wanted = " or ".join(map(_shown, shapes))
            raise self.fail(suffix, f"has shape {list(tensor.shape)}, not {wanted}")
        return array_of(tensor)

    def scales(self, suffix: str, dtypes: tuple[str, ...], *shapes: Shape) -> NDArray[Any]:
        """Those of a part, as the file has them; U8 is F8_E8M0. They are read, to see that all are finite."""
        array = self.array(suffix, dtypes, *shapes)
        flat, dtype = array.reshape(-1), self.dtype(suffix)
        for first in range(0, flat.size, _AT_ONCE):
            if not (np.abs(floats(flat[first : first + _AT_ONCE], dtype)) <= MAX_SCALE).all():
                raise self.fail(suffix, f"has scales that are not finite, or above {MAX_SCALE:g}")
        return array

    def grouped(
        self, kind: str, group_of: Indices, arrays: tuple[NDArray[Any], ...], read: Callable[..., Groups], rows: int
    ) -> StoredTensor:
        """The matrix [rows, columns], if `read` finds its groups in `arrays`; see `groups.rearranged`."""
        format, source, order = rearranged(kind, group_of, arrays, read)
        return self.stored(format, (rows, len(group_of)), source, column_order=order)

    def stored(self, format: str, shape: tuple[int, ...], source: Any, **more: Any) -> StoredTensor:
        """The matrix, once no part is left over."""
        if extra := self._tensors.keys() - self._taken:
            raise self.fail(min(extra), f"is left over: {self.name} is made without it")
        file = next(iter(self._tensors.values())).file
        return StoredTensor(self.name, format, shape, source, file=file, **more)

    def columns(self, suffix: str, count: int) -> Indices:
        """Their numbers. `suffix` is the part that says something of them."""
        if count > MAX_COLUMNS:
            raise self.fail(suffix, f"is of {count} inputs; at most {MAX_COLUMNS} are accepted")
        return np.arange(count)

    def even_groups(self, suffix: str, columns: int, groups: int, sizes: Collection[int] = ()) -> Indices:
        """The group of each column, where there are as many of each: one of `sizes`, if there are any, or all.

        `suffix` is the part that has the groups.
        """
        size, rest = divmod(columns, groups)
        if rest:
            raise self.fail(suffix, f"has {groups} groups, which do not divide the {columns} inputs")
        if sizes and groups > 1 and size not in sizes:
            reason = f"has {groups} groups for {columns} inputs, but group_size is {' or '.join(map(str, sizes))}"
            raise self.fail(suffix, reason)
        return self.columns(suffix, columns) // size

    def listed_groups(self, suffix: str, columns: int, groups: int) -> Indices:
        """The group of each column, which a part lists."""
        self.columns(suffix, columns)
        group_of = self.array(suffix, ("I32", "I64"), (columns,)).astype(np.int64)
        if group_of.min() < 0 or group_of.max() >= groups:
            raise self.fail(suffix, f"has groups {group_of.min()} to {group_of.max()}, but there are {groups}")
        return group_of

    def _tensor(self, suffix: str) -> StoredTensor:
        if suffix not in self._tensors:
            there = self.module + next(iter(self._tensors))
            raise self.fail(suffix, f"is missing, though there is {there}")
        self._taken.add(suffix)
        return self._tensors[suffix]


def _matches(shape: tuple[int, ...], wanted: Shape) -> bool:
    return len(shape) == len(wanted) and all(size in (None, own) for own, size in zip(shape, wanted, strict=True))


def _shown(shape: Shape) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in shape)}]"
