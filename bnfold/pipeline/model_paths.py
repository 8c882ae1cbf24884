"""Which models files, patterns and folders stand for, and where their folded forms go."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bnfold.errors import UsageError
from bnfold.onnx_io.output_paths import PathLike

_FOLDED = ".folded.onnx"


_WILD = frozenset("*?[")


@dataclass(frozen=True)
class Job:
    """One model, and where its folded form goes; None: beside it."""

    source: Path
    target: Path | None


def jobs_of(
    paths: Sequence[PathLike], *, out_dir: PathLike | None = None, recursive: bool = False
) -> list[Job]:
    """The models that files, patterns and folders stand for, in order and each once.

    A folder stands for the .onnx files in it, with `recursive` also for those in its folders. Below
    `out_dir` the tree is kept, from the folder that was given. Raises UsageError where nothing is
    found, or two models would be written to one file.
    """
    found = _found(paths, recursive=recursive, folded=False, without=out_dir)
    jobs = [
        Job(s, None if out_dir is None else Path(out_dir) / below) for s, below in found.items()
    ]
    targets: dict[Path, Path] = {}
    for job in jobs:
        if job.target is not None and targets.setdefault(job.target, job.source) != job.source:
            raise UsageError(
                f"{targets[job.target]} and {job.source} would both be written to {job.target}",
                "give the folder that both are in",
            )
    return jobs


def models_of(paths: Sequence[PathLike], *, recursive: bool = False) -> list[str]:
    """The models that paths stand for, folded ones among them. Raises UsageError."""
    return [str(source) for source in _found(paths, recursive=recursive, folded=True)]


def is_many(paths: Sequence[PathLike]) -> bool:
    """Whether paths may stand for other than one model each."""
    return len(paths) > 1 or any(Path(p).is_dir() or _is_pattern(os.fspath(p)) for p in paths)


def _is_pattern(path: str) -> bool:
    """Whether there is something to expand; a file may have such a name."""
    return bool(_WILD & set(path)) and not os.path.lexists(path)


def _found(
    paths: Sequence[PathLike], *, recursive: bool, folded: bool, without: PathLike | None = None
) -> dict[Path, Path]:
    """Models, and what they are called below the output folder; with the `folded` form of others.

    Of folders not what lies below `without`, where earlier output may be. Raises UsageError for a
    path that stands for none.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        models = _models(os.fspath(path), recursive=recursive)
        own = [
            (source, below)
            for source, below in models
            if source == Path(path)
            or ((folded or not _is_ours(source)) and not _lies_below(source, without))
        ]
        if not own:
            raise UsageError(
                f"there is no model in {path}",
                "" if recursive else "`recursive=True` also searches its subfolders",
            )
        for source, below in own:
            found.setdefault(source, below)
    return found


def _models(path: str, *, recursive: bool) -> Iterator[tuple[Path, Path]]:
    if _is_pattern(path):
        for match in sorted(glob.glob(path, recursive=recursive)):  # noqa: PTH207
            yield from _models(match, recursive=recursive)
        return
    folder = Path(path)
    if not folder.is_dir():
        yield folder, Path(folder.name)
        return
    for source in sorted(folder.rglob("*.onnx") if recursive else folder.glob("*.onnx")):
        if source.is_file():
            yield source, source.relative_to(folder)


def _lies_below(source: Path, folder: PathLike | None) -> bool:
    return folder is not None and Path(folder).resolve() in source.resolve().parents


def _is_ours(path: Path) -> bool:
    """Whether a model is the folded form of one beside it."""
    return (
        path.name.endswith(_FOLDED)
        and path.with_name(f"{path.name.removesuffix(_FOLDED)}.onnx").exists()
    )
