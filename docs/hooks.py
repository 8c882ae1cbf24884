"""What the site takes from outside of docs/: pages of the repository, and files they link to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
    "benchmarks/PATTERNS.md": "patterns.md",
    "bnfold/folding/rules/RULES.md": "rules.md",
}
FILES = (
    "bnfold/reporting/schema.json", "examples/finetune_frozen_bn.py", "examples/fleet_on_dask.py",
    "examples/quantize_static.py",
)  # fmt: skip


def on_files(files: Files, config: Any) -> Files:
    """Add them."""
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=_at_home((ROOT / source).read_text())))
    for source in FILES:
        files.append(File.generated(config, source, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links that lead out of docs/ lead to what stands for it here."""
    return re.sub(
        r"\]\(\.\./([^)#]+)", lambda found: f"]({PAGES.get(found[1], found[1])}", markdown
    )


def _at_home(text: str) -> str:
    """The links of a page of the repository's root, seen from docs/."""
    text = re.sub(r"\]\(docs/", "](", text)
    return re.sub(r"\]\(([^):#]+)", lambda found: f"]({PAGES.get(found[1], found[1])}", text)
