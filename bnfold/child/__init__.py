"""The process that runs onnxruntime. The parent imports none of the modules in here.

`python -m bnfold.child FOLDER` reads FOLDER/request.json and leaves FOLDER/answer.json; no answer
means that it crashed. Data crosses as JSON, never as pickle.

FOLDER/fallback.json is an answer that holds as long as it is there, should the process crash.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

ANSWER, FALLBACK = "answer.json", "fallback.json"


def leave(answer: dict[str, Any], folder: Path, name: str = ANSWER) -> None:
    """Write an answer, which is there whole or not at all."""
    (folder / "answer.tmp").write_text(json.dumps(answer, default=lambda verdict: verdict.value))
    os.replace(folder / "answer.tmp", folder / name)
