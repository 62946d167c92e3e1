"""The shape of the house: imports go one way, the core is pure, and importing is cheap.

The order is the one of docs/design.md: a module imports only from its left. Every import
counts, also those inside functions and under `TYPE_CHECKING`: a type is a dependency too.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
PACKAGE = "ghosttrain"

# A part may import every part to its left. Parts of one group never import one another.
ORDER: tuple[tuple[str, ...], ...] = (
    ("core.units",),
    ("core.errors",),
    ("core.rng",),
    ("core.spec",),
    ("core.identity",),
    ("core.laws",),
    ("core.plan",),
    ("core.forecast",),
    ("core.slowdown",),
    ("core.events",),
    ("core.timeline",),
    ("core.fault_draws",),
    ("core.incidents",),
    ("core.agenda",),
    ("core.history",),
    ("core.cascade",),
    ("core.variety",),
    ("core.signals",),
    ("core.messages",),
    ("core.steps",),
    ("core.fleet",),
    ("core.counters",),
    ("core.telemetry",),
    ("core.node",),
    ("core.job",),
    ("core.run",),
    ("core",),  # core/__init__.py itself: a front for the modules above, for those below
    ("catalog",),
    ("inputs",),
    ("playback",),
    ("",),  # ghosttrain/__init__.py itself: the public names
    ("views", "exporters", "ensemble", "checking", "validation", "scoring"),
    ("serve",),
    ("testing",),
    ("bench",),
    ("drill",),
    ("cli",),
    ("__main__",),
)
RANK = {part: rank for rank, group in enumerate(ORDER) for part in group}

# What would bring a clock, a file, a process or chance of its own into the core.
IMPURE_MODULES = frozenset(
    {"asyncio", "io", "logging", "multiprocessing", "os", "pathlib", "platform", "random"}
    | {"secrets", "shutil", "socket", "subprocess", "sys", "tempfile", "threading", "time"}
)
# Whoever loads our plugin is pytest: no extra has to bring it.
PLUGIN_HOST = frozenset({"pytest"})
IMPURE_CALLS = frozenset({"print", "open", "input", "exec", "eval"})
CLOCK_CALLS = frozenset({"now", "utcnow", "today", "uuid1", "uuid4"})


def module_name(path: Path, src: Path) -> str:
    """Dotted name of the module in `path`; a package's is its folder's."""
    parts = path.relative_to(src).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """The part of the house a module of ours belongs to, as ORDER names it."""
    parts = module.split(".")[1:]
    if parts[:1] == ["core"]:
        return ".".join(parts[:2])
    return parts[0] if parts else ""


def exists(module: str, src: Path) -> bool:
    path = src.joinpath(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(
    tree: ast.AST, module: str, *, is_package: bool, src: Path
) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of everything imported in `tree`.

    `from package import name` counts as `package.name` where that is a module. Relative imports
    are resolved; `import_module("...")` counts where its argument is written out.
    """
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=target, names=names, level=level):
                if level:
                    above = package.split(".")[: len(package.split(".")) - level + 1]
                    target = ".".join([*above, *([target] if target else [])])
                for alias in names:
                    inner = f"{target}.{alias.name}"
                    ours = inner.split(".")[0] == PACKAGE and exists(inner, src)
                    yield node.lineno, inner if ours else str(target)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(target)), *_],
            ):
                yield node.lineno, target


def direction_violations(module: str, line: int, target: str) -> Iterator[str]:
    """What is wrong with `module` importing `target`, another module of ours."""
    here, there = part_of(module), part_of(target)
    if here == there:
        return
    for part in (here, there):
        if part not in RANK:
            yield f"{module}:{line}: {part!r} has no place in the order: give it one in ORDER"
            return
    if RANK[there] >= RANK[here]:
        yield f"{module}:{line}: imports {target}, which is not to its left"


def purity_violations(tree: ast.AST, module: str) -> Iterator[str]:
    """Printing, files, clocks, globals and foreign chance in a module of the core."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in IMPURE_CALLS:
                yield f"{module}:{node.lineno}: calls {name}()"
            case ast.Attribute(
                value=ast.Name(id="datetime" | "date" | "uuid")
                | ast.Attribute(attr="datetime" | "date"),
                attr=name,
            ) if name in CLOCK_CALLS:
                yield f"{module}:{node.lineno}: reads a clock: .{name}"
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="random"), attr=name)) if (
                part_of(module) != "core.rng"
            ):
                yield f"{module}:{node.lineno}: draws from random.{name}: only core/rng.py may"
            case ast.Global():
                yield f"{module}:{node.lineno}: changes a global"


def file_violations(path: Path, src: Path) -> Iterator[str]:
    module = module_name(path, src)
    tree = ast.parse(path.read_text("utf-8"), str(path))
    in_core = part_of(module).startswith("core")
    if part_of(module) not in RANK:
        yield f"{module}: {part_of(module)!r} has no place in the order: give it one in ORDER"
    for line, target in imports(tree, module, is_package=path.stem == "__init__", src=src):
        top = target.split(".")[0]
        if top == PACKAGE:
            yield from direction_violations(module, line, target)
        elif in_core and top != "numpy" and top not in sys.stdlib_module_names:
            yield f"{module}:{line}: the core imports {top}: only the standard library and NumPy"
        elif in_core and top in IMPURE_MODULES:
            yield f"{module}:{line}: the core imports {top}: no clock, no files, no processes"
    if in_core:
        yield from purity_violations(tree, module)


def violations(src: Path) -> list[str]:
    """Everything wrong with the tree under `src`, sorted, once each."""
    files = (src / PACKAGE).rglob("*.py")
    return sorted({wrong for path in files for wrong in file_violations(path, src)})


def third_party_imports(src: Path) -> set[str]:
    found: set[str] = set()
    for path in (src / PACKAGE).rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"), str(path))
        is_package = path.stem == "__init__"
        for _, target in imports(tree, module_name(path, src), is_package=is_package, src=src):
            found.add(target.split(".")[0])
    return found - sys.stdlib_module_names - {PACKAGE}


def newly_loaded(statement: str, *, after: str = "pass") -> set[str]:
    """Top-level modules that `statement` loads in a fresh interpreter in which `after` ran."""
    script = (
        f"import json, sys\n{after}\nbefore = set(sys.modules)\n{statement}\n"
        "print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before})))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=ROOT
    )
    return set(json.loads(run.stdout))


def test_imports_go_one_way_and_the_core_is_pure():
    assert violations(SRC) == []


def test_importing_the_package_needs_numpy_at_most():
    # NumPy first: what it brings along (Cython's helper modules) is not ours.
    loaded = newly_loaded("import ghosttrain", after="import numpy, numpy.random")
    assert loaded - sys.stdlib_module_names - {PACKAGE} == set()
    assert "argparse" not in loaded


def test_the_command_line_starts_before_numpy_and_rich():
    """The first line is on the screen before anything heavy is loaded."""
    if (SRC / PACKAGE / "cli" / "main.py").exists():
        loaded = newly_loaded("import ghosttrain.cli.main")
        assert loaded - sys.stdlib_module_names == {PACKAGE}


def test_third_party_imports_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    lists = [project["dependencies"], *(extras[name] for name in extras if name != "test")]
    declared = {re.split(r"[^\w.-]", line)[0].replace("-", "_") for row in lists for line in row}
    assert third_party_imports(SRC) - PLUGIN_HOST <= declared


def test_the_test_extra_and_the_test_group_are_the_same():
    """pip installs the extra, uv the group."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extra = pyproject["project"]["optional-dependencies"]["test"]
    assert pyproject["dependency-groups"]["test"] == extra


# The checker itself: a small lawful house, in which one wall is then put in the wrong place.

LAWFUL = {
    "__init__.py": "from ghosttrain.core.run import Run\nfrom ghosttrain.playback import play",
    "core/__init__.py": "",
    "core/units.py": "GIB = 2**30",
    "core/rng.py": "import numpy as np\ndef f(): return np.random.Philox(key=1)",
    "core/spec.py": "import dataclasses\nfrom ghosttrain.core import units",
    "core/laws/__init__.py": "",
    "core/laws/memory.py": "from ghosttrain.core.laws.network import Collective",
    "core/laws/network.py": "from ..units import GIB\nclass Collective: ...",
    "core/run.py": "from datetime import UTC, datetime\nfrom .spec import x",
    "playback.py": "import time\nfrom ghosttrain.core.run import Run",
    "views/show.py": "import rich\nfrom ghosttrain.playback import play\nfrom . import bars",
    "views/bars.py": "print('#')",
    "exporters/jsonl.py": "from ghosttrain.core import run",
    "cli/main.py": "def main():\n    from ghosttrain.views import show",
    "__main__.py": "from ghosttrain.cli.main import main",
}


def build(src: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = src / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return src


def test_the_checker_accepts_a_lawful_house(tmp_path):
    assert violations(build(tmp_path, LAWFUL)) == []


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("core/spec.py", "from ghosttrain.core.run import Run", "not to its left"),
        ("core/spec.py", "from .run import Run", "not to its left"),
        ("core/spec.py", "from . import run", "not to its left"),
        ("core/spec.py", "import ghosttrain.core.run", "not to its left"),
        ("core/spec.py", "def f():\n    from ghosttrain.core import run", "not to its left"),
        ("core/spec.py", "if TYPE_CHECKING:\n    from .run import Run", "not to its left"),
        ("core/laws/memory.py", "from ..run import Run", "not to its left"),
        ("core/laws/memory.py", "from ...playback import play", "not to its left"),
        ("core/spec.py", "from ghosttrain import core", "not to its left"),
        ("core/spec.py", "from ghosttrain import Run", "not to its left"),
        ("core/rng.py", "import_module('ghosttrain.core.run')", "not to its left"),
        ("playback.py", "from ghosttrain.views import show", "not to its left"),
        ("views/bars.py", "from ghosttrain.exporters import jsonl", "not to its left"),
        ("exporters/jsonl.py", "import ghosttrain.views.bars", "not to its left"),
        ("views/bars.py", "from ghosttrain.cli.main import main", "not to its left"),
        ("__init__.py", "from ghosttrain.views import show", "not to its left"),
        ("core/helpers.py", "", "has no place"),
        ("core/run.py", "import rich", "only the standard library and NumPy"),
        ("core/run.py", "import scipy.signal", "only the standard library and NumPy"),
        ("core/run.py", "import time", "no clock"),
        ("core/run.py", "from os import environ", "no clock"),
        ("core/run.py", "print(1)", "calls print()"),
        ("core/run.py", "open('x')", "calls open()"),
        ("core/run.py", "from datetime import datetime\ndatetime.now()", "reads a clock"),
        ("core/run.py", "import numpy as np\nnp.random.default_rng(1)", "only core/rng.py may"),
        ("core/run.py", "def f():\n    global x\n    x = 1", "changes a global"),
    ],
)
def test_the_checker_finds_a_planted_violation(tmp_path, name, text, complaint):
    found = violations(build(tmp_path, LAWFUL | {name: text}))
    assert len(found) == 1
    module = f"{PACKAGE}/{name}".removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert found[0].startswith(f"{module}:")
    assert complaint in found[0]
