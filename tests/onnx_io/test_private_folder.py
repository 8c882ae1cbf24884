"""Private folders: nobody removes one that is in use, whoever else makes one in that place."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from bnfold import system
from bnfold.onnx_io.private_folder import PrivateFolder

PROCESSES, ROUNDS = 4, 100


def make_many(place: Path) -> None:
    for _ in range(ROUNDS):
        with PrivateFolder(place) as folder:
            (folder / "file").write_bytes(b"x")
            if (folder / "file").read_bytes() != b"x":
                raise SystemExit(1)


def test_processes_that_make_folders_in_one_place_do_not_remove_each_others(
    tmp_path: Path,
) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=make_many, args=(tmp_path,)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    assert not list(tmp_path.iterdir())


def test_a_folder_that_another_took_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = system.lock
    taken: list[Path] = []

    def taken_at_first(path: Path, *, new: bool) -> int | None:
        if taken:
            return lock(path, new=new)
        taken.append(path.parent)
        other = lock(path, new=new)
        assert other is not None
        ours = lock(path, new=new)
        os.close(other)
        return ours

    monkeypatch.setattr(system, "lock", taken_at_first)
    with PrivateFolder(tmp_path) as folder:
        assert folder.is_dir()
        assert folder.parent != taken[0]
    assert not list(tmp_path.iterdir())


def test_where_files_cannot_be_locked_a_folder_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "lock", lambda path, *, new: None)
    with PrivateFolder(tmp_path) as folder:
        assert folder.is_dir()
    assert not list(tmp_path.iterdir())
