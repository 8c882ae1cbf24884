"""What the documentation shows is run, and what it lists is held against the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from bnfold import Reason, errors
from bnfold.cli import EXIT_CODES, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(
    r"<!-- run -->\n```(\w+)\n(.*?)```(?:\n```text\n(.*?)```)?", README, re.S
)  # the language, what is run, and what a program prints


def comparable(text: str) -> str:
    """Without what differs from machine to machine: measured figures and the widths they take."""
    text = re.sub(r"\d\.\d\de[+-]\d\d|\d+\.\d+ ± \d+\.\d+|× [\d.e-]+|\d+%", "#", text)
    return re.sub(r"\s+", " ", text).strip()


def test_the_readme_shows_what_really_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sample_models").symlink_to(ROOT / "sample_models")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    for language, block, printed in BLOCKS:  # in order: what one writes, another reads
        if language == "python":
            exec(compile(block, "README.md", "exec"), {})
            assert capsys.readouterr().out == printed
            continue
        first, _, shown = block.partition("\n")
        assert first.startswith("$ bnfold ")
        result = CliRunner().invoke(main, shlex.split(first.removeprefix("$ bnfold ")))
        assert result.exit_code == 0
        assert comparable(result.output) == comparable(shown)


def test_there_is_something_to_run() -> None:
    assert len(BLOCKS) >= 4


def test_the_exit_codes_of_readme_help_and_errors_agree() -> None:
    in_readme = dict(re.findall(r"^\| (\d) \| (.*?)(?:; nothing is written)? \|$", README, re.M))
    in_help = dict(re.findall(r"^ +(\d)  (.*)$", EXIT_CODES, re.M))
    assert in_readme == in_help
    codes = {
        c.exit_code
        for c in vars(errors).values()
        if isinstance(c, type) and issubclass(c, errors.BnfoldError)
    }
    assert codes == {int(code) for code in in_help if code != "0"} | {errors.INTERNAL_EXIT_CODE}


def test_the_list_of_reasons_is_complete() -> None:
    lines = ["# Reasons", "", "Why a BatchNormalization was kept, and what to do about it.", ""]
    for reason in Reason:
        sentence = reason.sentence.format(node="*node*", detail="*detail*")
        lines += [f"## {reason.code}", "", f"{sentence}.", "", f"Remedy: {reason.remedy}.", ""]
    expected = "\n".join(lines).rstrip() + "\n"
    path = ROOT / "docs" / "reasons.md"
    assert path.read_text() == expected, f"write this to {path}:\n{expected}"


def test_links_between_documents_lead_somewhere() -> None:
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
