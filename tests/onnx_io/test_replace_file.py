"""What commands write beside models: no file is lost to a slip, none is left in half."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

import bnfold
from bnfold.cli.main import main
from bnfold.onnx_io.replace_file import Kind, write_whole
from tests.support import CONV_NORM, bn, numbers, parse


@pytest.fixture(autouse=True)
def folder(cwd: Path) -> None:
    """A model with external data, its folded form, data to run on, and somebody's notes."""
    model = parse(CONV_NORM, w=numbers(3, 3, 1, 1), **bn(3))
    external = parse(CONV_NORM, w=numbers(3, 3, 1, 1), **bn(3))
    onnx.save(model, "model.onnx")
    onnx.save(external, "external.onnx", save_as_external_data=True, location="weights.bin",
              size_threshold=0)  # fmt: skip
    bnfold.optimize("model.onnx", verify="none")
    np.savez("data.npz", x=numbers(8, 3, 4, 4))
    Path("notes.txt").write_text("mine\n")
    Path("settings.json").write_text('{"mine": 1}\n')


def bnfold_(words: str) -> Result:
    return CliRunner().invoke(main, words.split())


WRITERS = (
    "verify model.onnx model.folded.onnx --level proof --certificate FILE",
    "check model.onnx --baseline FILE --write-baseline",
    "inspect model.onnx --report FILE",
    "optimize model.onnx -o out.onnx --verify none --report FILE",
)


@pytest.fixture(params=WRITERS, ids=lambda words: words.split()[0])
def writer(request: pytest.FixtureRequest) -> str:
    words: str = request.param
    return words


@pytest.mark.parametrize(
    "victim", ["model.onnx", "model.folded.onnx", "external.onnx", "weights.bin", "data.npz",
               "notes.txt", "settings.json"],
)  # fmt: skip
@pytest.mark.parametrize("way", ["itself", "link", "hard link"])
def test_what_is_of_another_kind_is_not_replaced(victim: str, way: str, writer: str) -> None:
    before = Path(victim).read_bytes()
    name = victim
    if way == "link":
        Path("file.json").symlink_to(victim)
        name = "file.json"
    elif way == "hard link":
        Path("file.json").hardlink_to(victim)
        name = "file.json"
    done = bnfold_(writer.replace("FILE", name))
    assert done.exit_code == 2, done.output
    assert name in done.stderr
    assert Path(victim).read_bytes() == before


def test_what_is_of_the_kind_is_replaced(writer: str) -> None:
    for _ in range(2):
        done = bnfold_(writer.replace("FILE", "file.json"))
        assert done.exit_code in (0, 1), done.output
    assert not list(Path().glob(".bnfold-*"))


@pytest.mark.parametrize("suffix", [".json", ".md", ".html", ".junit.xml", ".sarif"])
def test_a_report_replaces_a_report_of_its_format_and_no_other(suffix: str) -> None:
    assert bnfold_(f"inspect model.onnx --report r{suffix}").exit_code == 0
    assert bnfold_(f"check model.onnx --report r{suffix}").exit_code == 1
    other = ".md" if suffix != ".md" else ".json"
    Path(f"r{suffix}").rename(f"r{other}")
    assert bnfold_(f"inspect model.onnx --report r{other}").exit_code == 2


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_picture_replaces_a_picture_of_ours(suffix: str) -> None:
    pytest.importorskip("PIL")
    words = f"stats model.onnx --inputs data.npz --plot p{suffix}"
    assert bnfold_(words).exit_code == 0
    assert bnfold_(words).exit_code == 0
    Path(f"p{suffix}").write_bytes(b"\x89PNG\r\n of somebody <svg ")
    assert bnfold_(words).exit_code == 2


def test_a_list_of_parameters_replaces_such_a_list() -> None:
    for _ in range(2):
        assert bnfold_("freeze model.onnx --learnable --verify none").exit_code == 0
    Path("model.frozen.learnable.json").write_text('{"mine": 1}\n')
    assert bnfold_("freeze model.onnx --learnable --verify none").exit_code == 2
    assert Path("model.frozen.learnable.json").read_text() == '{"mine": 1}\n'


def test_an_empty_file_may_be_filled(writer: str) -> None:
    Path("file.json").touch()
    assert bnfold_(writer.replace("FILE", "file.json")).exit_code in (0, 1)
    assert Path("file.json").stat().st_size


def test_reports_do_not_overwrite_each_other_nor_the_output() -> None:
    words = "optimize model.onnx -o file.json --verify none --report file.json"
    assert bnfold_(words).exit_code == 2
    words = "verify model.onnx model.folded.onnx --certificate f.json --report f.json"
    assert bnfold_(words).exit_code == 2


def test_a_counterexample_takes_no_folder_with_something_in_it() -> None:
    Path("ce").mkdir()
    Path("ce/notes.txt").write_text("mine")
    wrong = parse(CONV_NORM, w=numbers(3, 3, 1, 1, seed=9), **bn(3))
    onnx.save(wrong, "wrong.onnx")
    assert bnfold_("verify model.onnx wrong.onnx --counterexample ce").exit_code == 2
    assert bnfold_("verify model.onnx wrong.onnx --counterexample notes.txt").exit_code == 2
    assert [path.name for path in Path("ce").iterdir()] == ["notes.txt"]
    Path("empty").mkdir()
    for name in ("empty", "new/below"):
        done = bnfold_(f"verify model.onnx wrong.onnx --foreign --counterexample {name}")
        assert done.exit_code == 1, done.output
        assert Path(name, "test_data_set_0", "input_0.pb").exists()
    assert not list(Path().rglob(".bnfold-*"))


# --- whole or as it was --------------------------------------------------------------------------


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Files of this process may have 1,000 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("full_disk")
def test_on_a_full_disk_the_old_file_stays() -> None:
    old = '{"accepted": {}}'
    Path("old.json").write_text(old)
    with pytest.raises(bnfold.UsageError, match=r"cannot write old\.json"):
        write_whole(Path("old.json"), " " * 2000, Kind.BASELINE)
    assert Path("old.json").read_text() == old
    assert not list(Path().glob(".bnfold-*"))


def test_the_mode_of_a_file_and_a_link_to_it_stay() -> None:
    Path("below").mkdir()
    Path("below/old.json").write_text('{"accepted": {}}')
    Path("below/old.json").chmod(0o600)
    Path("link.json").symlink_to("below/old.json")
    write_whole(Path("link.json"), '{"accepted": {"a": []}}', Kind.BASELINE)
    assert Path("link.json").is_symlink()
    assert Path("below/old.json").read_text() == '{"accepted": {"a": []}}'
    assert stat.S_IMODE(Path("below/old.json").stat().st_mode) == 0o600


def test_a_long_name_is_no_hindrance() -> None:
    name = "r" * 240 + ".json"
    assert bnfold_(f"inspect model.onnx --report {name}").exit_code == 0
    assert Path(name).exists()


# --- where a model is written --------------------------------------------------------------------


def optimized(*words: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "bnfold", "optimize", "model.onnx", "--verify", "none", *words]
    return subprocess.run(command, capture_output=True, check=False)


def test_a_pipe_is_written_into_and_stays_one() -> None:
    os.mkfifo("pipe")
    with subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE) as reader:
        assert optimized("-o", "pipe").returncode == 0
        assert reader.stdout is not None
        assert reader.stdout.read() == Path("model.folded.onnx").read_bytes()
    assert stat.S_ISFIFO(Path("pipe").stat().st_mode)


def test_a_device_is_written_into_and_stays_one() -> None:
    try:
        os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        Path("null").write_bytes(b"")
    except OSError:
        pytest.skip("only root makes devices, and not everywhere")
    assert optimized("-o", "null").returncode == 0
    assert stat.S_ISCHR(Path("null").stat().st_mode)


def test_dev_null_swallows_a_model() -> None:
    assert optimized("-o", "/dev/null").returncode == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert not list(Path("/dev").glob(".bnfold-*"))


def test_a_full_device_is_an_error() -> None:
    done = optimized("-o", "/dev/full")
    assert done.returncode == 2
    assert b"cannot write /dev/full: No space left on device" in done.stderr


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed(there: bool) -> None:
    Path("below").mkdir()
    if there:
        Path("below/real.onnx").write_bytes(b"old")
    Path("link.onnx").symlink_to("below/real.onnx")
    assert optimized("-o", "link.onnx").returncode == 0
    assert Path("link.onnx").is_symlink()
    assert Path("below/real.onnx").read_bytes() == Path("model.folded.onnx").read_bytes()
    assert {path.name for path in Path("below").iterdir()} == {"real.onnx"}


def test_external_data_has_no_place_beside_a_link_or_a_pipe() -> None:
    Path("below").mkdir()
    Path("link.onnx").symlink_to("below/real.onnx")
    for target in ("link.onnx", "/dev/null"):
        with pytest.raises(bnfold.UsageError, match="external data has no place beside it"):
            bnfold.optimize("external.onnx", target, verify="none")
    assert not list(Path("below").iterdir())
    bnfold.optimize("external.onnx", "link.onnx", verify="none", external_data="inline")
    assert Path("below/real.onnx").exists()


# --- data files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["notes.txt", "BIG.ONNX", "other.pb", "../above.onnx"])
@pytest.mark.parametrize("external_data", ["keep", "out.onnx.data"])
def test_a_data_file_that_is_not_ours_is_not_replaced(
    there: str, external_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a model refers to it, and wherever that is."""
    below = tmp_path / "below"
    below.mkdir()
    external = onnx.load("external.onnx")
    if there == "notes.txt":
        (below / "out.onnx.data").write_text("mine\n")
    elif there.startswith(".."):
        onnx.save(external, "above.onnx")
        (below / "out.onnx.data").write_bytes(Path("weights.bin").read_bytes())
        model = onnx.load("above.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            onnx.external_data_helper.set_external_data(tensor, "below/out.onnx.data")
            tensor.ClearField("raw_data")
        onnx.save(model, "above.onnx")
    else:
        onnx.save(external, below / there, save_as_external_data=True, location="out.onnx.data",
                  size_threshold=0)  # fmt: skip
    before = (below / "out.onnx.data").read_bytes()
    target = below / "out.onnx"
    if external_data == "keep":
        done = bnfold.optimize("external.onnx", target, verify="none")
        assert [path.name for path in done.data_files] == ["out.onnx.1.data"]
    else:
        with pytest.raises(bnfold.UsageError, match="not what an earlier run"):
            bnfold.optimize("external.onnx", target, verify="none", external_data=external_data)
        assert not target.exists()
    assert (below / "out.onnx.data").read_bytes() == before


def test_data_files_of_earlier_runs_take_turns() -> None:
    """What the output of today refers to is left alone; what the one before did is replaced."""
    names = []
    for _ in range(4):
        done = bnfold.optimize("external.onnx", "out.onnx", verify="none")
        names.append([path.name for path in done.data_files])
    if names[2] != names[0]:
        pytest.skip("this file system keeps no notes on files")
    assert names == [["out.onnx.data"], ["out.onnx.1.data"]] * 2


def test_a_data_file_of_ours_that_somebody_has_written_to_is_his() -> None:
    for _ in range(2):
        bnfold.optimize("external.onnx", "out.onnx", verify="none")
    Path("out.onnx.data").write_text("mine\n")
    done = bnfold.optimize("external.onnx", "out.onnx", verify="none")
    assert [path.name for path in done.data_files] == ["out.onnx.2.data"]
    assert Path("out.onnx.data").read_text() == "mine\n"


def test_a_data_file_of_ours_that_a_copy_of_the_model_refers_to_is_not_replaced() -> None:
    bnfold.optimize("external.onnx", "out.onnx", verify="none")
    Path("out.onnx").rename("BIG.ONNX")
    bnfold.optimize("external.onnx", "out.onnx", verify="none")
    bnfold.optimize("external.onnx", "out.onnx", verify="none")
    assert onnx.load("BIG.ONNX").graph.initializer
    assert bnfold.verify("external.onnx", "BIG.ONNX").equal
