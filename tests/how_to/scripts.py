"""Shell blocks of pages, run as they stand but for some words that make them cheap."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.terminal import ROOT


def run_script(block: str, folder: Path, *, instead: Mapping[str, str]) -> str:
    """What a block prints, run in `folder` by `sh -e`, with other words `instead` of some.

    Each word that is replaced must be there: a page that changes takes its test along.
    """
    for old, new in instead.items():
        assert old in block, f"{old!r} is not in the block any more"
        block = block.replace(old, new)
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    shim = programs / "ghosttrain"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ghosttrain "$@"\n', encoding="utf-8")
    shim.chmod(0o755)
    env = os.environ | {
        "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT / "src"),
    }
    done = subprocess.run(
        ["sh", "-e", "-c", block], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
