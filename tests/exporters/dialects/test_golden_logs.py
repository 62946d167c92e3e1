"""Golden logs: the programs' words as somebody has read and judged them.

`python -m tests.exporters.dialects.test_golden_logs --write` writes the files of
tests/golden/dialects anew; their diff is what a change means, and is read like code.
"""

from __future__ import annotations

import argparse

from tests.golden.trainer_logs import golden_file, golden_texts, write_all

LONGEST = 160  # lines a person reads in one go


def test_logs_are_what_their_files_say():
    for name, text in golden_texts().items():
        written = golden_file(name).read_text(encoding="utf-8")
        assert text.splitlines() == written.splitlines(), name


def test_files_are_short_enough_to_be_read():
    lengths = {name: text.count("\n") for name, text in golden_texts().items()}
    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Golden logs of training programs.")
    parser.add_argument("--write", action="store_true", required=True, help="write them anew")
    parser.parse_args()
    write_all()
