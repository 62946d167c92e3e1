"""The documents say what there is, and their examples run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import get_args

import pytest

from docs import reference
from ghosttrain.cli.common import request_from_args
from ghosttrain.cli.list import KINDS
from ghosttrain.cli.main import COMMANDS, main
from ghosttrain.core.events import Event
from ghosttrain.core.run import simulate
from ghosttrain.exporters.asking import asked_of
from ghosttrain.exporters.formats import formats_of
from ghosttrain.inputs.fields import PARTS, field_types
from ghosttrain.inputs.request import Request, resolve
from tests.documents import commands, parsed

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize(
    ("name", "page"),
    [("spec-file.md", reference.spec_file_page), ("events.md", reference.events_page)],
)
def test_the_reference_is_fresh(name, page):
    stale = "stale: run `PYTHONPATH=src python docs/reference.py`"
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == page(), stale


def test_every_field_of_a_spec_file_is_documented():
    page = reference.spec_file_page()
    for name in field_types():
        assert f"`{name.rpartition('.')[2]}`" in page or f"[{name}]" in page, name
    known = {f"{part}.{field}" for part in PARTS for field in reference.ANYWHERE}
    gone = set(reference.MEANINGS) - set(field_types()) - known
    assert not gone, "documented, but no field"


def test_every_event_is_documented():
    page = reference.events_page()
    for event in get_args(Event):
        assert f"## {event.__name__}\n" in page


def test_every_command_is_in_the_readme_and_has_examples():
    for name, (summary, examples) in COMMANDS.items():
        assert f"`ghosttrain {name}" in README, name
        assert summary
        assert 1 <= len(examples) <= 3


def test_the_readme_lists_the_kinds_there_are():
    row = next(line for line in README.splitlines() if "ghosttrain list KIND" in line)
    missing = [kind for kind in KINDS if kind not in row]
    assert not set(missing) - {"tokenizers", "fabrics"}, "the rest are details"


def test_the_example_of_a_spec_file_resolves(tmp_path):
    block = re.search(r"```toml\n(.*?)```", reference.spec_file_page(), re.DOTALL)
    assert block is not None
    path = tmp_path / "run.toml"
    path.write_text(block[1], encoding="utf-8")
    spec = resolve(Request(spec=str(path)), 1)
    assert spec.cluster.gpus == 512


def readme_examples() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("ghost")]


@pytest.mark.parametrize("line", readme_examples())
def test_examples_of_the_readme_are_understood(line, capfd, tmp_path):
    """Their first command runs, as `plan` where it would take its time."""
    words = shlex.split(line.partition("|")[0])[1:]
    if words[0] in ("run", "serve"):
        without = re.sub(r" --(format|runs|speed) \w+", "", " ".join(words[1:]))
        words = ["plan", *without.split()]
    if words[0] == "export":
        words[words.index("--to") + 1] = str(tmp_path)
        words += ["--to-time", "3min", "--every", "1min"]
    assert main(words) == 0
    assert capfd.readouterr().err == ""


PAGES = [path for path in DOCS if path.name != "CHANGELOG.md"]
TYPED = [(path.name, words) for path in PAGES for words in commands(path.read_text("utf-8"))]
HELPED = [
    ("--help", words)
    for _, examples in COMMANDS.values()
    for words in commands("\n".join(["```sh", *examples, "```"]))
]
# What a page takes for a file of its reader's; everything else is there.
THEIR_FILES = re.compile(r"(train|pretrain_gpt|llama3_8b|run)\.(sh|slurm|toml)|\./.*")


def test_pages_have_commands():
    assert {"drill.md", "export.md", "labels.md", "README.md"} <= {name for name, _ in TYPED}


@pytest.mark.parametrize(("name", "words"), TYPED + HELPED, ids=lambda value: str(value)[:60])
def test_commands_of_the_pages_are_understood(name, words):
    """What they ask for can be; running them is left to those tests that have the time."""
    args = parsed(words)
    if words[0] not in ("run", "plan", "export", "serve") or THEIR_FILES.match(args.spec or ""):
        return
    seed = 7 if args.seed is None else args.seed
    spec = resolve(request_from_args(args), seed)
    if words[0] == "export":
        assert formats_of(args.format)
        window = {"start": args.start_at, "stop": args.to_time, "every": args.every}
        asked_of(simulate(spec, seed), **window, gpus=args.select_gpus, metrics=args.metrics)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_no_document_or_source_cites_what_users_do_not_have():
    gone = re.compile(r"\b(physics|screens|real_log_statistics|product|log_formats)\.md\b")
    for path in [*DOCS, *(ROOT / "src").rglob("*.py"), *(ROOT / "src").rglob("*.toml")]:
        assert not gone.findall(path.read_text(encoding="utf-8")), path.relative_to(ROOT)
