"""Golden logs: the programs' words as somebody has read and judged them.

`python -m tests.exporters.dialects.test_golden_logs --write` writes the files of
tests/golden/dialects anew; their diff is what a change means, and is read like code.
"""

from __future__ import annotations

import argparse

from tests.exporters.dialects.grammar import LINES
from tests.golden.trainer_logs import FOLDER, golden_file, golden_texts, write_all

LONGEST = 330  # lines a person reads in one go: a launch of Megatron-LM has a hundred


def test_logs_are_what_their_files_say():
    texts = golden_texts()
    for name, text in texts.items():
        written = golden_file(name).read_text(encoding="utf-8")
        assert text.splitlines() == written.splitlines(), name
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(texts)
    assert {name.partition("-")[0] for name in texts} == {*LINES} - {"hf-v4"}
    assert {name: n for name, text in texts.items() if (n := text.count("\n")) > LONGEST} == {}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Golden logs of training programs.")
    parser.add_argument("--write", action="store_true", required=True, help="write them anew")
    parser.parse_args()
    write_all()
