"""Data for a model, sample by sample, of whatever size: read in batches and never held at once.

x.npz                    an array [N, …] for each input, under its name; `y`: labels
folder/*.npz             several of these
folder/*.npy             of a model with one input: a sample in each, or a batch
test_data_set_*/         ONNX's own: a batch in each
folder of images         PNG, JPEG, … (needs Pillow: pip install bnfold[images])
"""

from __future__ import annotations

import itertools
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.errors import UsageError
from bnfold.onnx_io.protos import Array
from bnfold.runtime.fit_inputs import from_protos, require_all, require_fit
from bnfold.runtime.sessions import Feed
from bnfold.runtime.synthetic_inputs import InputSpec

LABELS = "y"
_IMAGES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_REMEDY = (
    "give an .npz file with an array [N, …] for each input, a folder of .npz or .npy files, "
    "test_data_set_* folders, or a folder of images"
)


@dataclass(frozen=True)
class Batch:
    """Some samples. Where there are fewer than the model wants, the last repeats: `rows` count."""

    feed: Feed
    rows: int
    labels: Array | None


@dataclass(frozen=True)
class Pictures:
    """How images become arrays: (value/255 − mean)/std per channel, in NCHW or NHWC."""

    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    layout: str = "NCHW"
    resize: tuple[int, int] | None = None  # height, width


@dataclass(frozen=True)
class DatasetReader:
    """What is at `path`, for a model with these inputs."""

    path: Path
    inputs: tuple[InputSpec, ...]
    pictures: Pictures = Pictures()

    def batches(self, size: int) -> Iterator[Batch]:
        """All samples, `size` at a time. Raises UsageError for what cannot be read or fed."""
        count = 0
        for feed, labels in _regrouped(self._chunks(size), size):
            rows = len(next(iter(feed.values())))
            count += rows
            if rows < size and self._fixed():
                feed = {
                    n: np.concatenate([a, a[-1:].repeat(size - rows, 0)]) for n, a in feed.items()
                }
            yield Batch(feed, rows, labels)
        if not count:
            raise UsageError(f"there are no samples in {self.path}", _REMEDY)

    def _fixed(self) -> bool:
        return any(spec.dims and isinstance(spec.dims[0], int) for spec in self.inputs)

    def _chunks(self, size: int) -> Iterator[tuple[Feed, Array | None]]:
        read: Counter[Path] = Counter()  # samples
        try:
            for where, arrays in self._raw(size):
                labels = arrays.pop(LABELS, None) if LABELS not in self._names() else None
                feed = self._fitted(where, arrays, labels, read[where])
                read[where] += len(next(iter(feed.values()), ()))
                yield feed, labels
        except UsageError:
            raise
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise UsageError(f"cannot read the data in {self.path}: {error}", _REMEDY) from error

    def _names(self) -> list[str]:
        return [spec.name for spec in self.inputs]

    def _raw(self, size: int) -> Iterator[tuple[Path, Feed]]:
        path = self.path
        if not path.exists():
            raise UsageError(f"there is no {path}", _REMEDY)
        if path.is_file():
            reader = _npz if path.suffix == ".npz" else self._one
            yield from reader(path, size)
            return
        for folder in sorted(path.glob("test_data_set_*")) or [path]:
            if any(folder.glob("input_*.pb")):
                yield folder, from_protos(folder, "input", self._names())
        for file in sorted(path.iterdir()):
            if file.suffix == ".npz":
                yield from _npz(file, size)
            elif file.suffix == ".npy":
                yield from self._one(file, size)
        yield from self._images(path)

    def _one(self, path: Path, size: int) -> Iterator[tuple[Path, Feed]]:
        """One array, of a model with one input: a batch, or a sample without a batch axis."""
        if path.suffix.lower() in _IMAGES:
            yield path, {self._only(path).name: self._picture(path)[None]}
            return
        if path.suffix != ".npy":
            raise UsageError(f"{path} is of no kind that can be read", _REMEDY)
        spec = self._only(path)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.ndim == len(spec.dims) - 1 and not spec.open_rank:
            array = array[None]
        for start in range(0, len(array) if array.ndim else 0, size):
            yield path, {spec.name: np.asarray(array[start : start + size])}

    def _only(self, path: Path) -> InputSpec:
        if len(self.inputs) != 1:
            raise UsageError(
                f"{path} is one array, and the model has the inputs {', '.join(self._names())}",
                "give .npz files with an array for each",
            )
        return self.inputs[0]

    # --- images ----------------------------------------------------------------------------------

    def _images(self, path: Path) -> Iterator[tuple[Path, Feed]]:
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in _IMAGES:
                yield file, {self._only(file).name: self._picture(file)[None]}

    def _picture(self, path: Path) -> Array:
        try:
            from PIL import Image, UnidentifiedImageError
        except ImportError as error:
            raise UsageError(
                "reading images needs Pillow, which is not installed", "pip install bnfold[images]"
            ) from error
        spec, options = self._only(path), self.pictures
        place = 1 if options.layout == "NCHW" else 3
        channels = spec.dims[place] if len(spec.dims) == 4 else 3
        try:
            with Image.open(path) as opened:
                mode = {1: "L", 4: "RGBA"}.get(channels if isinstance(channels, int) else 3, "RGB")
                image = opened.convert(mode)
                size = options.resize or self._declared(spec)
                if size is not None and image.size != size[::-1]:
                    image = image.resize(size[::-1], Image.Resampling.BILINEAR)
                values = np.asarray(image)
        except (UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise UsageError(f"{path} is no image that can be read: {error}") from error
        values = values.reshape(*values.shape[:2], -1)
        if spec.dtype.kind == "f":
            values = values.astype(np.float64) / 255
            values = (values - np.array(options.mean or 0.0)) / np.array(options.std or 1.0)
        if options.layout == "NCHW":
            values = np.moveaxis(values, 2, 0)
        return values.astype(spec.dtype)

    def _declared(self, spec: InputSpec) -> tuple[int, int] | None:
        """Height and width that the model wants, if it says so."""
        dims = spec.dims[2:4] if self.pictures.layout == "NCHW" else spec.dims[1:3]
        if len(dims) == 2 and isinstance(dims[0], int) and isinstance(dims[1], int):
            return dims[0], dims[1]
        return None

    # --- what fits -------------------------------------------------------------------------------

    def _fitted(self, where: Path, arrays: Feed, labels: Array | None, first: int) -> Feed:
        """Arrays as the model wants them; `first` is the number of their first sample there."""
        if len(self.inputs) == 1 and len(arrays) == 1:
            arrays = {self.inputs[0].name: next(iter(arrays.values()))}
        require_all(where, arrays, self.inputs)
        feed = {
            spec.name: self._fitting(where, spec, arrays[spec.name], first) for spec in self.inputs
        }
        lengths = {name: len(array) for name, array in feed.items()}
        if labels is not None:
            lengths[LABELS] = len(labels)
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} {n}" for name, n in lengths.items())
            raise UsageError(f"{where} has arrays with different numbers of samples: {told}")
        return feed

    def _fitting(self, where: Path, spec: InputSpec, array: Array, first: int) -> Array:
        require_fit(where, spec, array, batched=True)
        if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
            bad = first + int(np.argwhere(~np.isfinite(array))[0][0])
            raise UsageError(
                f"the array {spec.name!r} in {where} has NaN or infinity in sample {bad}, counted "
                "from 0",
                "leave such samples out: a mean over them is none",
            )
        return array.astype(spec.dtype)


def _regrouped(
    chunks: Iterator[tuple[Feed, Array | None]], size: int
) -> Iterator[tuple[Feed, Array | None]]:  # fmt: skip
    """The same samples, `size` at a time; a new shape begins a new group."""
    held: list[tuple[Feed, Array | None]] = []
    for feed, labels in chunks:
        if held and _shapes(held[0][0]) != _shapes(feed):
            yield _joined(held)
            held = []
        held.append((feed, labels))
        while sum(map(_rows, held)) >= size:
            whole, own = _joined(held)
            cut = {name: array[:size] for name, array in whole.items()}
            yield cut, None if own is None else own[:size]
            rest = {name: array[size:] for name, array in whole.items()}
            left = None if own is None else own[size:]
            held = [(rest, left)] if _rows((rest, left)) else []
    if held:
        yield _joined(held)


def _rows(entry: tuple[Feed, Array | None]) -> int:
    return len(next(iter(entry[0].values())))


def _shapes(feed: Feed) -> list[tuple[int, ...]]:
    return [array.shape[1:] for array in feed.values()]


def _joined(held: list[tuple[Feed, Array | None]]) -> tuple[Feed, Array | None]:
    if len(held) == 1:
        return held[0]
    feed = {name: np.concatenate([entry[name] for entry, _ in held]) for name in held[0][0]}
    labels = [own for _, own in held if own is not None]
    return feed, np.concatenate(labels) if len(labels) == len(held) else None


def _npz(path: Path, size: int) -> Iterator[tuple[Path, Feed]]:
    """The arrays of an archive, `size` rows at a time, without loading any of them whole."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        readers = {name[:-4]: _rows_of(archive, name, size) for name in names}
        ended = object()
        for rows in itertools.zip_longest(*readers.values(), fillvalue=ended):
            if any(row is ended for row in rows):
                raise UsageError(f"{path} has arrays with different numbers of samples")
            found: Any = dict(zip(readers, rows, strict=True))
            yield path, found


def _rows_of(archive: zipfile.ZipFile, name: str, size: int) -> Iterator[Array]:
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        header: Any = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = header(file)
        if dtype.hasobject:
            raise UsageError(f"{name} holds Python objects", "save arrays of numbers")
        if fortran and len(shape) > 1:  # its rows do not lie together
            whole = np.frombuffer(file.read(), dtype).reshape(shape, order="F")
            yield from (whole[start : start + size] for start in range(0, shape[0], size))
            return
        width = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        for start in range(0, shape[0] if shape else 0, size):
            count = min(size, shape[0] - start)
            data = file.read(count * width)
            if len(data) < count * width:
                raise UsageError(f"{name} ends after {start} of {shape[0]} samples")
            yield np.frombuffer(data, dtype).reshape(count, *shape[1:])
