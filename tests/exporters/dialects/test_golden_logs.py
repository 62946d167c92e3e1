"""Golden logs: the programs' words as somebody has read and judged them.

`python -m tests.exporters.dialects.test_golden_logs --write` writes the files of
tests/golden/dialects anew; their diff is what a change means, and is read like code.
"""

from __future__ import annotations

import argparse

from tests.exporters.dialects.grammar import LINES
from tests.golden.trainer_logs import FOLDER, WHOLE_JOB, golden_file, golden_texts, write_all

# Lines a person reads in one go; the output of a whole job has more, as its ranks all speak.
LONGEST, LONGEST_JOB = 160, 550


def test_logs_are_what_their_files_say():
    texts = golden_texts()
    for name, text in texts.items():
        written = golden_file(name).read_text(encoding="utf-8")
        assert text.splitlines() == written.splitlines(), name
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(texts)
    assert {name.partition("-")[0] for name in texts} == {*LINES} - {"hf-v4"}
    for name, text in texts.items():
        assert text.count("\n") <= (LONGEST_JOB if name in WHOLE_JOB else LONGEST), name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Golden logs of training programs.")
    parser.add_argument("--write", action="store_true", required=True, help="write them anew")
    parser.parse_args()
    write_all()
