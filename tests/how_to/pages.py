"""The how-to pages, and what is in them: the rows of their tables."""

from __future__ import annotations

from tests.terminal import ROOT

HOW_TO = ROOT / "docs" / "how-to"


def page(name: str) -> str:
    """The text of a page."""
    return (HOW_TO / f"{name}.md").read_text(encoding="utf-8")


def rows(text: str, header: str) -> list[list[str]]:
    """The cells of the table with that header, without the marks of code."""
    lines = text.partition(header)[2].splitlines()[2:]
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip().strip("`") for cell in line.strip("|").split(" | ")])
    return found
