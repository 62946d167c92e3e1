"""Golden logs: what somebody has read and compared with logs of the tools.

`python -m tests.exporters.dialects.test_golden_megatron_logs --write` writes the files of
tests/golden/dialects anew; their diff is what a change means, and is read like code.
"""

from __future__ import annotations

import argparse

import pytest

from tests.golden.dialects import FOLDER, NAMES, golden_file, golden_run, log_text, write_all


@pytest.fixture(scope="module")
def run():
    return golden_run()


@pytest.mark.parametrize("name", NAMES)
def test_a_small_run_reads_as_its_file(name, run):
    written = golden_file(name).read_text(encoding="utf-8")
    assert log_text(name, run).splitlines() == written.splitlines()


def test_every_dialect_of_these_has_a_file():
    assert set(NAMES) <= {path.stem for path in FOLDER.iterdir()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Golden logs of all dialects.")
    parser.add_argument("--write", action="store_true", required=True, help="write them anew")
    parser.parse_args()
    write_all()
