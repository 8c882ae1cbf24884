"""The files through which a worker and the one that asks it talk: request, stage, answer."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bnfold.progress import Stage

REQUEST = "request_{}.json"  # its parts, from 0 on
ANSWER = "answer.json"
FALLBACK = "fallback.json"  # an answer that holds as long as it is there, should the worker crash
_STAGE = "stage.json"


def write_answer(answer: dict[str, Any], folder: Path, name: str = ANSWER) -> None:
    """Write an answer, which is there whole or not at all."""
    _write(answer, folder / name)


def write_stage(stage: Stage, folder: Path) -> None:
    """Say what is being done, for the other process to show, and to report if this one dies."""
    _write(asdict(stage), folder / _STAGE)


def read_stage(folder: Path) -> Stage:
    """What the worker was doing last."""
    try:
        return Stage(**json.loads((folder / _STAGE).read_text(encoding="utf-8")))
    except OSError:
        return Stage("starting")


def _write(value: dict[str, Any], path: Path) -> None:
    text = json.dumps(value, default=lambda member: member.value)
    path.with_suffix(".tmp").write_text(text, encoding="utf-8")
    os.replace(path.with_suffix(".tmp"), path)
