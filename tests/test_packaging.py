"""What is shipped: the wheel in a fresh venv; with it, the GitHub Action and pre-commit hooks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_models"


def run(
    *words: object, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", "PYTHONPATH"))}
    return subprocess.run(
        list(map(str, words)), cwd=cwd, env=own | environment, text=True, capture_output=True,
        check=False,
    )  # fmt: skip


def require(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    require(run(sys.executable, "-m", "build", "--outdir", folder, ROOT))
    return folder


@pytest.fixture(scope="module")
def fresh(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a fresh venv in which nothing but the wheel was installed."""
    venv = tmp_path_factory.mktemp("venv")
    require(run(sys.executable, "-m", "venv", venv))
    (wheel,) = built.glob("*.whl")
    require(run(venv / "bin/python", "-m", "pip", "install", "--quiet", wheel))
    return venv / "bin"


def test_the_metadata_is_complete(built: Path) -> None:
    files = list(built.iterdir())
    assert {file.suffix for file in files} == {".whl", ".gz"}
    require(run(sys.executable, "-m", "twine", "check", "--strict", *files))


def test_the_wheel_has_what_is_not_code_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    others = {Path(name).name for name in names if not name.endswith(".py")}
    own = {"report.html.j2", "schema.json", "py.typed", "RULES.md", "__init__.pyi"}
    assert own <= others
    assert others - own <= {"METADATA", "RECORD", "WHEEL", "LICENSE", "entry_points.txt"}


def test_in_a_fresh_venv_it_folds_and_reports(fresh: Path, tmp_path: Path) -> None:
    assert re.fullmatch(r"bnfold \d+\.\d+\.\d+\n", require(run(fresh / "bnfold", "--version")))
    reports = [f"--report=out{suffix}" for suffix in (".json", ".html", ".sarif", ".md")]
    told = require(
        run(fresh / "python", "-m", "bnfold", "optimize", SAMPLES / "digits_mlp.onnx", "-o",
            "folded.onnx", *reports, cwd=tmp_path)
    )  # fmt: skip
    assert "2 of 2 BatchNormalizations folded and verified" in told
    assert {path.name for path in tmp_path.iterdir()} == {
        "folded.onnx", "out.json", "out.html", "out.sarif", "out.md",
    }  # fmt: skip


USES = """
import bnfold

result = bnfold.optimize("model.onnx", verify="full", options=bnfold.Options(skip=("x",)))
reveal_type(result)
reveal_type(bnfold.check(["models"]))
bnfold.optimize("model.onnx", verify="perhaps")
bnfold.no_such_name
"""


def test_a_type_checker_in_a_fresh_project_sees_the_types(fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "uses.py").write_text(USES)
    done = run(
        sys.executable, "-m", "mypy", "--strict", "--python-executable", fresh / "python",
        "uses.py", cwd=tmp_path,
    )  # fmt: skip
    told = done.stdout
    assert 'Revealed type is "bnfold.api.files.OptimizeResult"' in told
    assert "CheckResult" in told
    assert "has incompatible type \"Literal['perhaps']\"" in told
    assert 'Module has no attribute "no_such_name"' in told
    assert "Found 2 errors in 1 file" in told


# --- in other people's tools ---------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Somebody's repository, with a model in a folder and one that is folded."""
    (tmp_path / "models").mkdir()
    shutil.copy(SAMPLES / "digits_mlp.onnx", tmp_path / "models" / "my net.onnx")
    shutil.copy(SAMPLES / "training_mode.onnx", tmp_path / "done.onnx")
    return tmp_path


class Action:
    """The steps of action.yml, as GitHub would run them in a repository."""

    def __init__(self, repository: Path, scripts: Path) -> None:
        self.repository = repository
        self.scripts = scripts
        self.summary, self.output = repository / "summary.md", repository / "output.txt"

    def run(self, **inputs: str) -> subprocess.CompletedProcess[str]:
        action = yaml.safe_load((ROOT / "action.yml").read_text())
        given = {name: str(entry.get("default", "")) for name, entry in action["inputs"].items()}
        context = {f"inputs.{name}": value for name, value in (given | inputs).items()}
        context["github.action_path"] = str(ROOT)
        _, step = action["runs"]["steps"]  # the first installs, which `fresh` has done
        context["steps.install.outputs.bnfold"] = str(self.scripts / "bnfold")
        done = run(
            "bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"],
            cwd=self.repository, GITHUB_ACTIONS="true", GITHUB_OUTPUT=str(self.output),
            GITHUB_STEP_SUMMARY=str(self.summary), **filled(step["env"], context),
        )  # fmt: skip
        assert f"exit-code={done.returncode}" in self.output.read_text()
        return done


def filled(texts: Mapping[str, str], context: Mapping[str, str]) -> dict[str, str]:
    """The expressions of a workflow with what they stand for."""
    return {
        name: re.sub(r"\$\{\{ (.*?) \}\}", lambda found: context[found[1]], text)
        for name, text in texts.items()
    }


def test_the_action_fails_where_something_is_left_to_fold(repository: Path, fresh: Path) -> None:
    action = Action(repository, fresh)
    done = action.run(models="models\ndone.onnx", reports="out.sarif\nout.junit.xml")
    assert done.returncode == 1
    assert "::error file=models/my net.onnx,title=bnfold check::" in done.stderr
    assert "❌ bnfold check" in action.summary.read_text()
    assert (repository / "out.sarif").exists()
    assert (repository / "out.junit.xml").exists()


def test_the_action_folds(repository: Path, fresh: Path) -> None:
    done = Action(repository, fresh).run(
        command="optimize", models="models/*.onnx", args="--out-dir\nfolded\n--dim\nbatch=2"
    )
    assert done.returncode == 0, done.stderr
    assert (repository / "folded" / "my net.onnx").exists()


def test_what_the_action_is_given_is_never_run(repository: Path, fresh: Path) -> None:
    for name in ("models", "args", "reports", "command"):
        inputs = {"models": "done.onnx"} | {name: '$(touch owned); `touch owned` "; touch owned #'}
        assert Action(repository, fresh).run(**inputs).returncode != 0
    assert not (repository / "owned").exists()


def test_the_action_pastes_no_expression_into_a_script() -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    assert not any("${{" in step["run"] for step in action["runs"]["steps"])


def test_the_action_installs_from_its_own_folder(tmp_path: Path) -> None:
    """With a pip that only says what it was asked for."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    (tmp_path / "python3").write_text(
        '#!/bin/sh\nmkdir -p "$3/bin"; cp "$0" "$3/bin/python"; echo "$@" >> "$LOG"\n'
    )
    (tmp_path / "python3").chmod(0o755)
    step = action["runs"]["steps"][0]
    environment: dict[str, Any] = dict(filled(step["env"], {"github.action_path": "/the/action"}))
    log, output = tmp_path / "log", tmp_path / "output"
    require(
        run("bash", "-eo", "pipefail", "-c", step["run"], RUNNER_TEMP=str(tmp_path), LOG=str(log),
            GITHUB_OUTPUT=str(output), PATH=f"{tmp_path}:{os.environ['PATH']}", **environment)
    )  # fmt: skip
    assert log.read_text().splitlines()[-1] == "-m pip install --quiet /the/action"
    assert output.read_text() == f"bnfold={tmp_path}/bnfold/bin/bnfold\n"


def hook(name: str) -> Any:
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    return next(entry for entry in hooks if entry["id"] == name)


@pytest.mark.parametrize(
    ("files", "code"), [(["done.onnx"], 0), (["done.onnx", "models/my net.onnx"], 1)]
)
def test_the_hook_checks(repository: Path, fresh: Path, files: list[str], code: int) -> None:
    command = hook("bnfold-check")["entry"].split()
    assert run(fresh / command[0], *command[1:], *files, cwd=repository).returncode == code


def test_the_hook_folds_in_place_and_then_has_nothing_to_do(repository: Path, fresh: Path) -> None:
    command = hook("bnfold-optimize")["entry"].split()
    files = ["done.onnx", "models/my net.onnx"]
    before = {file: (repository / file).read_bytes() for file in files}
    require(run(fresh / command[0], *command[1:], *files, cwd=repository))
    after = {file: (repository / file).read_bytes() for file in files}
    assert after["done.onnx"] == before["done.onnx"]
    assert after["models/my net.onnx"] != before["models/my net.onnx"]
    require(run(fresh / command[0], *command[1:], *files, cwd=repository))
    assert {file: (repository / file).read_bytes() for file in files} == after


@pytest.mark.parametrize("name", ["bnfold-check", "bnfold-optimize"])
def test_the_hooks_take_models_only(name: str) -> None:
    pattern = hook(name)["files"]
    assert re.search(pattern, "a/b.onnx")
    assert not re.search(pattern, "a/b.onnx.data")


# --- the snippets of docs/pipelines.md -----------------------------------------------------------


def snippet(kind: str) -> str:
    page = (ROOT / "docs" / "pipelines.md").read_text()
    found = re.search(rf"<!-- {kind} -->\n```\w+\n(.*?)```", page, re.S)
    assert found is not None
    return found[1]


def with_path(scripts: Path) -> dict[str, Any]:
    return {"PATH": f"{scripts}:{os.environ['PATH']}"}


def test_the_gitlab_job_folds_and_leaves_its_artifacts(repository: Path, fresh: Path) -> None:
    job = yaml.safe_load(snippet("gitlab"))["fold"]
    assert job["before_script"] == ['pip install "$BNFOLD"']  # which `fresh` has done
    for line in job["script"]:
        require(run("bash", "-eo", "pipefail", "-c", line, cwd=repository, **with_path(fresh)))
    for path in (*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]):
        assert (repository / path).exists()
    assert (repository / "folded" / "my net.onnx").exists()


def test_the_makefile_folds_each_model_once(repository: Path, fresh: Path) -> None:
    (repository / "models" / "my net.onnx").rename(repository / "models" / "net.onnx")
    (repository / "Makefile").write_text(snippet("makefile"))
    require(run("make", "folded", cwd=repository, **with_path(fresh)))
    assert (repository / "build" / "net.onnx").exists()
    again = require(run("make", "folded", cwd=repository, **with_path(fresh)))
    assert "bnfold" not in again


def test_the_workflow_step_gives_the_action_what_it_takes() -> None:
    steps = yaml.safe_load(snippet("action"))
    own = next(step for step in steps if "bnfold" in step["uses"])
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    assert set(own["with"]) <= set(action["inputs"])
