"""Makes pages of the site from the documents as they are read without it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
PAGES |= {"CHANGELOG.md": "CHANGELOG.md", "LICENSE": "LICENSE"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README, CONTRIBUTING, CHANGELOG and LICENSE, whose links lead to ``docs/``."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        for there, here in (("](docs/", "]("), ("](README.md", "](index.md")):
            text = text.replace(there, here)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Indent by four what belongs to a list, as Python-Markdown wants it; elsewhere three do."""
    return re.sub(r"^   (?=(?:    )?\S)", "    ", markdown, flags=re.MULTILINE)
