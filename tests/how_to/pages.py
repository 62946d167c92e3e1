"""The how-to pages, and what is in them: blocks of code, rows of tables, commands."""

from __future__ import annotations

import re
import shlex

from tests.terminal import ROOT

HOW_TO = ROOT / "docs" / "how-to"


def page(name: str) -> str:
    """The text of a page."""
    return (HOW_TO / f"{name}.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def rows(text: str, header: str) -> list[list[str]]:
    """The cells of the table with that header, without the marks of code."""
    lines = text.partition(header)[2].splitlines()[2:]
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip().strip("`") for cell in line.strip("|").split(" | ")])
    return found


def commands(text: str) -> list[list[str]]:
    """The words of each `ghosttrain` command in the shell blocks, without what it is piped to."""
    found = []
    for block in blocks(text, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "ghosttrain" in words[:1]:
                ends = [k for k, word in enumerate(words) if word in ("|", ">", "&", "&&", ";")]
                found.append(words[1 : ends[0] if ends else None])
    return found
