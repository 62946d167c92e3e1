"""The page on recordings: what is typed runs on a terminal, and is the same each time."""

from __future__ import annotations

import re
import shlex

import pytest

from ghosttrain.cli.common import request_from_args
from ghosttrain.core.run import simulate
from ghosttrain.inputs.request import resolve
from tests.documents import blocks, parsed
from tests.how_to.pages import page
from tests.terminal import PtyRun

PAGE = page("record-a-demo")
TYPED = sorted(set(re.findall(r"""(?:^|['"])ghosttrain (run [^'"\n]+)""", PAGE, re.MULTILINE)))
SHOWN_S = 2.0


def test_the_commands_were_read():
    assert len(TYPED) == 3
    assert blocks(PAGE, "elixir")[0].count("Type ") == 1


@pytest.mark.parametrize("typed", TYPED)
def test_what_is_typed_is_understood(typed: str):
    args = parsed(shlex.split(typed))
    run = simulate(resolve(request_from_args(args), args.seed), args.seed)
    assert (run.spec.cluster.gpus, args.start, args.instant_lines) == (64, 1767258000, 40)
    assert len(run.labels()) == typed.count("--faults")


def log_of(typed: str) -> list[str]:
    """The lines of the log after two seconds, on a terminal high enough to keep them all."""
    words = shlex.split(re.sub(r" --exit-after \S+", "", typed))
    with PtyRun(*words, "--exit-after", f"{SHOWN_S:.0f}s", columns=120, lines=300) as shown:
        assert shown.wait() == 0
        rows = shown.screen_text().splitlines()
    return [row.rstrip() for row in rows if row.startswith("[2026-01-01 09:0")]


def test_two_recordings_have_the_same_log():
    first, second = log_of(TYPED[0]), log_of(TYPED[0])
    common = min(len(first), len(second))
    assert common > 5
    assert first[:common] == second[:common]
