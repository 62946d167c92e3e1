"""Drills for tests: one small run, with what is asked for hidden in it."""

from __future__ import annotations

from functools import cache

from ghosttrain.drill.choice import Case, Level, draw_case
from ghosttrain.inputs.request import Request, resolve


@cache
def case_of(scenario: str | None, seed: int = 7, level: Level = "normal") -> Case:
    spec = resolve(Request(spec="llama-3-8b"), seed)
    return draw_case(spec, seed, scenario, level)
