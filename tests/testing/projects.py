"""A project of somebody else that has us installed, as pytest sees it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.terminal import ROOT


def install(folder: Path) -> dict[str, str]:
    """What an installer makes of our entry points, found before what may be installed here.

    Returns:
        The environment in which it is.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    info = folder / "ghosttrain-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ghosttrain\nVersion: 0.1.0\n")
    lines = [f"{name} = {at}" for name, at in project["entry-points"]["pytest11"].items()]
    (info / "entry_points.txt").write_text("[pytest11]\n" + "\n".join(lines) + "\n")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT / "src")])}


def run_pytest(folder: Path, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    """What pytest says to a file of tests in a project in `folder`; warnings are errors."""
    env = install(folder / "site")
    (folder / "test_theirs.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:randomly"]
    return subprocess.run(
        [*command, "--rootdir", str(folder), *words, str(folder / "test_theirs.py")],
        cwd=folder, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
