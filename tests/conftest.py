"""What tests of every folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.proving import every_fold_is_proven as every_fold_is_proven


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder of the test's own, in which commands run in this very process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    return tmp_path
