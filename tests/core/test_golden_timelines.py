"""Golden timelines: what each fault kind makes a run say is what somebody has read and judged.

`python -m tests.core.test_golden_timelines --write` writes the files of tests/golden/faults anew;
their diff is what a change means, and is read like code.
"""

from __future__ import annotations

import argparse

import pytest

from ghosttrain import catalog
from tests.golden.timelines import CASES, FOLDER, golden_file, timeline_text, write_all

LONGEST = 70  # lines a person reads in one go


@pytest.mark.parametrize("name", catalog.names("fault"))
def test_a_fault_makes_the_run_say_what_its_file_says(name):
    written = golden_file(name).read_text(encoding="utf-8")
    assert timeline_text(name).splitlines() == written.splitlines()


def test_every_kind_has_a_file_and_every_file_a_kind():
    assert {path.stem for path in FOLDER.iterdir()} == set(catalog.names("fault"))
    assert set(CASES) <= set(catalog.names("fault"))


def test_files_are_short_enough_to_be_read():
    lengths = {path.stem: len(path.read_text().splitlines()) for path in FOLDER.iterdir()}
    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Golden timelines of all fault kinds.")
    parser.add_argument("--write", action="store_true", required=True, help="write them anew")
    parser.parse_args()
    write_all()
