"""Many models in one call."""

from __future__ import annotations

import os
import pickle
import signal
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import Result

import bnfold
from bnfold.pipeline import batch
from bnfold.pipeline.batch import ModelOutcome, optimize_many, worst_exit_code
from bnfold.pipeline.model_paths import Job, jobs_of
from tests.folding.test_options import two
from tests.support import bn, invoke, numbers, parse
from tests.test_hardening import until


@pytest.fixture(autouse=True)
def folder(cwd: Path) -> None:
    """Two models, one in a folder below, one that is none and one that needs 50 GB to run."""
    Path("models/inner").mkdir(parents=True)
    onnx.save(two(), "models/a.onnx")
    onnx.save(two(), "models/inner/b.onnx")
    Path("models/garbage.onnx").write_text("no model")
    text = """
    g (float[1,3,1,1] x) => (float[65536,3,256,256] y) {
      c = Conv (x, w)
      n = BatchNormalization (c, s, b, m, v)
      y = Expand (n, shape)
    }"""
    shape = np.array([65536, 3, 256, 256])
    model = parse(text, w=numbers(3, 3, 1, 1), shape=shape, **bn(3))
    onnx.save(model, "models/inner/large.onnx")


def bnfold_(*words: str) -> Result:
    return invoke("optimize", *words)


def names(folder: str) -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*.onnx")}


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_folder_keeps_its_tree_and_failures_stop_nothing(jobs: str) -> None:
    before = names("models")
    done = bnfold_("models", "-r", "--out-dir", "out", "--jobs", jobs)
    assert done.exit_code == 5
    assert names("out") == {"a.onnx", "inner/b.onnx"}
    assert names("models") == before
    assert "4 models: 2 folded, 0 with nothing to fold, 2 failed" in done.output
    assert "models/garbage.onnx: models/garbage.onnx is not an ONNX model" in done.output
    assert "the memory limit was reached" in done.output
    assert "4 BatchNormalizations gone, 0 kept" in done.output


def test_quiet_tells_what_failed_only() -> None:
    text = bnfold_("models", "-r", "--out-dir", "out", "--quiet").output
    assert "a.onnx →" not in text
    assert "garbage.onnx" in text


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (("models/a.onnx", "models/inner/b.onnx", "--out-dir", "out"), {"a.onnx", "b.onnx"}),
        (("models/a*.onnx", "--out-dir", "out"), {"a.onnx"}),
        (("models/**/b.onnx", "-r", "--out-dir", "out"), {"b.onnx"}),
        (("models/a.onnx", "--out-dir", "out"), {"a.onnx"}),
    ],
)
def test_files_and_patterns(words: tuple[str, ...], written: set[str]) -> None:
    assert bnfold_(*words).exit_code == 0
    assert names("out") == written


def test_beside_themselves_and_not_twice() -> None:
    Path("models/garbage.onnx").unlink()
    for _ in range(2):
        assert bnfold_("models").exit_code == 0
        assert names("models") == {
            "a.onnx", "a.folded.onnx", "inner/b.onnx", "inner/large.onnx",
        }  # fmt: skip


def test_in_place() -> None:
    assert bnfold_("models/a.onnx", "models/inner/b.onnx", "--in-place").exit_code == 0
    assert len(onnx.load("models/inner/b.onnx").graph.node) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("models", "-o", "x.onnx"), "-o names the output of one model"),
        (("models/a.onnx", "models/a.onnx", "-o", "x.onnx"), "-o names the output of one model"),
        (("models", "--in-place", "--out-dir", "out"), "exclude each other"),
        (("nothing*.onnx",), "there is no model in nothing"),
    ],
)
def test_what_cannot_be_asked(words: tuple[str, ...], message: str) -> None:
    done = bnfold_(*words)
    assert done.exit_code == 2
    assert message in done.stderr


def test_two_models_of_one_name_are_not_written_to_one_file() -> None:
    onnx.save(two(), "a.onnx")
    with pytest.raises(bnfold.UsageError, match=r"would both be written to out/a\.onnx"):
        jobs_of(["a.onnx", "models/a.onnx"], out_dir="out")


def test_a_model_that_is_named_twice_is_folded_once() -> None:
    assert len(jobs_of(["models/a.onnx", "models", "models/a.onnx"])) == 2


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_any_executor_gives_what_one_process_gives(kind: type[Executor]) -> None:
    alone = optimize_many(["models"], recursive=True, out_dir="one")
    with kind(2) as executor:  # type: ignore[call-arg]
        together = optimize_many(["models"], recursive=True, out_dir="two", executor=executor)
    for one, other in zip(alone, together, strict=True):
        assert one.source == other.source
        assert one.exit_code == other.exit_code
        assert str(one.error) == str(other.error)
        if one.result is not None and other.result is not None:
            assert one.result.verdicts == other.result.verdicts
            assert one.result.model.read_bytes() == other.result.model.read_bytes()


def test_errors_come_through_from_other_processes() -> None:
    error = bnfold.UsageError("a sentence", "a remedy")
    again = pickle.loads(pickle.dumps(error))
    assert (again.message, again.remedy, str(again)) == ("a sentence", "a remedy", str(error))
    original, wrong = two(), two()
    (tensor,) = (t for t in wrong.graph.initializer if t.name == "w2")
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w2"))
    comparison = bnfold.verify(original, wrong)
    unequal = pickle.loads(pickle.dumps(bnfold.NotEqualError("no", comparison)))
    assert unequal.comparison == comparison


def test_not_equal_counts_most() -> None:
    errors = [bnfold.WorkerError("x"), bnfold.NotBetterError("y"), None]
    assert worst_exit_code(ModelOutcome(Path("a"), error=error).exit_code for error in errors) == 1
    assert (
        worst_exit_code(
            [ModelOutcome(Path("a"), error=errors[0]).exit_code, ModelOutcome(Path("b")).exit_code]
        )
        == 5
    )
    assert worst_exit_code([]) == 0


def test_on_a_dask_cluster_results_and_failures_are_those_of_one_machine() -> None:
    distributed = pytest.importorskip("distributed")
    here = optimize_many(["models"], out_dir="here", recursive=True)
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    )
    with cluster, distributed.Client(cluster) as client, client.get_executor() as executor:
        seen: list[ModelOutcome] = []
        there = optimize_many(
            [Path("models").resolve()], out_dir=Path("there").resolve(), recursive=True,
            executor=executor, on_done=seen.append,
        )  # fmt: skip
    assert len(seen) == len(there)
    assert (
        worst_exit_code(d.exit_code for d in there)
        == worst_exit_code(d.exit_code for d in here)
        == 5
    )
    assert [one.exit_code for one in there] == [one.exit_code for one in here]
    for one, other in zip(here, there, strict=True):
        if one.error is None:
            assert one.result is not None
            assert other.result is not None
            assert one.result.verdicts == other.result.verdicts
            assert one.result.model.read_bytes() == other.result.model.read_bytes()
        else:
            assert other.error is not None
            assert type(one.error) is type(other.error)
            assert one.error.remedy == other.error.remedy


def test_earlier_output_below_a_folder_is_no_input() -> None:
    for _ in range(2):
        optimize_many(["models"], out_dir="models/out", recursive=True)
    assert not Path("models/out/out").exists()
    assert Path("models/out/inner/b.onnx").exists()


def test_a_file_whose_name_looks_like_a_pattern_is_a_file() -> None:
    onnx.save(two(), "a[1].onnx")
    done = bnfold_("a[1].onnx", "-o", "out.onnx")
    assert done.exit_code == 0
    assert Path("out.onnx").exists()


def test_an_output_folder_that_cannot_be_made() -> None:
    Path("file").write_text("")
    done = bnfold_("models", "--out-dir", "file/out")
    assert done.exit_code == 2
    assert "cannot make the folder file/out" in done.stderr


def test_a_model_counts_with_its_data_files() -> None:
    onnx.save(two(), "e.onnx", save_as_external_data=True, location="e.bin", size_threshold=0)
    both = Path("e.onnx").stat().st_size + Path("e.bin").stat().st_size
    assert batch._size(Path("e.onnx")) == both


def dying(job: Job, options: dict[str, Any]) -> ModelOutcome:
    """As if the system had taken the process of one model, for its memory."""
    if job.source.name == "dies.onnx":
        until(Path("tried").exists)  # by then the other one has begun, too
        os.kill(os.getpid(), signal.SIGKILL)
    if job.source.name == "once.onnx" and not Path("tried").exists():
        Path("tried").write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return ModelOutcome(job.source)


def test_a_worker_that_dies_takes_its_model_along_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch, "_optimize", dying)
    names = ["1.onnx", "once.onnx", "dies.onnx", "2.onnx", "3.onnx", "4.onnx"]
    for name in names:
        Path(name).write_text("")
    seen: list[ModelOutcome] = []
    done = optimize_many(names, jobs=2, on_done=seen.append)
    assert [str(one.source) for one in done] == names
    assert [one.source.name for one in done if one.error is not None] == ["dies.onnx"]
    assert sorted(one.source.name for one in seen) == sorted(names)


def test_data_that_is_nowhere_stops_no_batch() -> None:
    """A model whose external data is at no place; the parent looks at its size as well."""
    broken = two()
    tensor = broken.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "x.bin"), ("offset", "nowhere")):
        tensor.external_data.add(key=key, value=value)
    Path("broken.onnx").write_bytes(broken.SerializeToString())
    done = optimize_many(["broken.onnx", "models/a.onnx"], jobs=2, out_dir="out")
    assert [one.exit_code for one in done] == [3, 0]
