"""What the process that runs onnxruntime leaves for the one that asked."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

ANSWER = "answer.json"
FALLBACK = "fallback.json"  # an answer that holds as long as it is there, should the process crash


def write_answer(answer: dict[str, Any], folder: Path, name: str = ANSWER) -> None:
    """Write an answer, which is there whole or not at all."""
    (folder / "answer.tmp").write_text(
        json.dumps(answer, default=lambda verdict: verdict.value), encoding="utf-8"
    )
    os.replace(folder / "answer.tmp", folder / name)
