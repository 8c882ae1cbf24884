"""What the documentation shows is run, and what it lists is held against the code."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from click.testing import CliRunner

import bnfold
from bnfold import Reason, errors, system
from bnfold.cli.main import EXIT_CODES, main
from bnfold.folding.weights import weight_copies
from bnfold.graph import budget, constant_evaluation, long_vectors
from bnfold.graph.index import Index
from bnfold.tuning.stored_statistics import norms

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(
    r"<!-- (run|shell)(?:: (\d))? -->\n```(\w+)\n(.*?)```(?:\n```text\n(.*?)```)?", re.S
)  # how, the exit code, the language, what is run, and what a program prints
NOT_RUN = {  # what is shown without being run here, and why
    "$ make demo": "CI runs both targets",
    "$ bnfold bench model.onnx model.folded.onnx": "its figures are those of a machine",
    "$ bnfold freeze model.onnx --learnable -o frozen.onnx": "test_freeze.py does, with training",
}


def page_name(path: Path) -> str:
    return path.name


def comparable(text: str) -> str:
    """Without what differs from machine to machine: measured figures and the widths they take."""
    text = re.sub(r"\d\.\d\de[+-]\d\d|\d+\.\d+ ± \d+\.\d+|× [\d.e-]+|\d+%", "#", text)
    return re.sub(r"\s+", " ", text).strip()


@pytest.mark.parametrize("page", [p for p in PAGES if "<!-- run" in p.read_text()], ids=page_name)
def test_a_page_shows_what_really_happens(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sample_models").symlink_to(ROOT / "sample_models")
    (tmp_path / "bnfold").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bnfold "$@"\n')
    (tmp_path / "bnfold").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    for how, code, language, block, printed in BLOCK.findall(page.read_text()):
        if how == "shell":
            command = ["bash", "-euo", "pipefail", "-c", f"PATH=$PWD:$PATH\n{block}"]
            subprocess.run(command, check=True, capture_output=True)
        elif language == "python":
            exec(compile(block, page.name, "exec"), {})
            assert capsys.readouterr().out == printed
        else:
            first, _, shown = block.partition("\n")
            assert first.startswith("$ bnfold ")
            result = CliRunner().invoke(main, shlex.split(first.removeprefix("$ bnfold ")))
            assert result.exit_code == int(code or 0), result.output
            assert comparable(result.output) == comparable(shown)


def test_there_is_something_to_run() -> None:
    assert len(BLOCK.findall(README.read_text())) >= 2
    assert sum(len(BLOCK.findall(page.read_text())) for page in PAGES) >= 20


def test_every_command_that_is_shown_is_run() -> None:
    for page in PAGES:
        marked = [block for _, _, _, block, _ in BLOCK.findall(page.read_text())]
        for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.S):
            assert block in marked or block.splitlines()[0].partition("   #")[0] in NOT_RUN, block


# --- what the code knows best --------------------------------------------------------------------


@pytest.fixture(scope="module")
def generate() -> Iterator[ModuleType]:
    """docs/generate.py as a module."""
    sys.path.insert(0, str(ROOT / "docs"))
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "docs"))


@pytest.mark.parametrize("name", ["reasons.md", "commands.md", "api.md", "report.md"])
def test_generated_pages_are_what_the_code_says(name: str, generate: ModuleType) -> None:
    path = ROOT / "docs" / name
    assert path.read_text() == generate.PAGES[name](), "run python docs/generate.py"


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.code)
def test_every_reason_has_an_example_that_gets_it(
    reason: Reason, generate: ModuleType, tmp_path: Path
) -> None:
    example = generate.EXAMPLES[reason]
    model = example.model()
    if example.measured:
        assert reason in {refusal.reason for refusal in norms(Index(model))[1]}
        return
    if example.frozen:
        onnx.save(model, tmp_path / "model.onnx")
        verdicts = bnfold.freeze(
            tmp_path / "model.onnx", tmp_path / "out.onnx", assume_inference=True, verify="none"
        ).verdicts
    else:
        verdicts = bnfold.inspect(model, options=example.options).verdicts
    found = {r.reason for verdict in verdicts for r in (verdict.refusal, verdict.below) if r}
    assert reason in found


def test_the_exit_codes_of_docs_help_and_errors_agree() -> None:
    page = (ROOT / "docs" / "pipelines.md").read_text()
    in_docs = dict(re.findall(r"^\| (\d+) \| (.*?)(?:; nothing is written)? \|$", page, re.M))
    in_help = dict(re.findall(r"^ +(\d+)  (.*)$", EXIT_CODES, re.M))
    assert in_docs == in_help
    codes = {
        c.exit_code
        for c in (*vars(errors).values(), bnfold.NotEqualError)
        if isinstance(c, type) and issubclass(c, errors.BnfoldError)
    }
    assert codes | {0, system.INTERRUPTED} == {int(code) for code in in_help}


def test_every_option_of_the_map_of_flags_exists() -> None:
    page = (ROOT / "docs" / "migration.md").read_text()
    known = {
        name
        for command in main.commands.values()
        for parameter in command.params
        for name in parameter.opts
    }
    cells = re.findall(r"^\| [^|]+ \| ([^|]+) \|", page[: page.index("## In Python")], re.M)
    for option in re.findall(r"--[a-z-]+", " ".join(cells)):
        assert option in known, option


def test_the_table_of_the_readme_is_the_measured_one() -> None:
    measured = (ROOT / "benchmarks" / "PATTERNS.md").read_text()
    table = measured[measured.index("| pattern") :].strip()
    assert table in README.read_text(), "copy it from benchmarks/PATTERNS.md after make patterns"


def test_every_command_has_an_example_and_every_option_a_help() -> None:
    for name, command in main.commands.items():
        assert f"bnfold {name} " in (command.help or ""), name
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_every_command_is_described_in_one_line_that_fits() -> None:
    listed = CliRunner().invoke(main, ["--help"], terminal_width=80).output
    assert "..." not in listed[listed.index("Commands:") :]


def test_links_between_documents_lead_somewhere() -> None:
    for path in (*PAGES, ROOT / "CONTRIBUTING.md"):
        text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_limits_that_are_told_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "files.md").read_text()
    rows = {
        "all constants that are computed": (budget.CONSTANTS, budget.CONSTANTS_PER_STORED),
        "one constant that is computed": (constant_evaluation._LEAST, constant_evaluation._GROWTH),
        "all maps": (budget.MAPS, budget.MAPS_PER_STORED),
        "one map": (budget.WIDEST,),
        "vectors": (long_vectors._LONGEST, long_vectors._IN_ALL),
        "copies": (weight_copies.CHEAP, weight_copies.PER_NORM),
    }
    for name, numbers in rows.items():
        (row,) = (line for line in page.splitlines() if line.startswith(f"| {name}"))
        for number in numbers:
            assert f"{number:,}" in row, (name, number)
    assert weight_copies.SHARE == 0.5
