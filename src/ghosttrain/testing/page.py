"""A page of `/metrics` as a scraper gets it, read by Prometheus' own parser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ghosttrain.core.errors import SpecError, nearest

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.samples import Sample

_SHOWN = 3  # samples that an error shows


@dataclass(frozen=True)
class Page:
    """What a scrape brought.

    Attributes:
        status: Of HTTP: 200, or 503 where the node is down.
        text: The page.
    """

    status: int
    text: str

    @property
    def up(self) -> bool:
        """What `up` would be of this target."""
        return self.status == 200

    @cached_property
    def families(self) -> dict[str, Metric]:
        """Families by name (a counter's without `_total`), none of a target that is down."""
        from prometheus_client.parser import text_string_to_metric_families

        if not self.up:
            return {}
        declared = set(self.text.splitlines())
        read = text_string_to_metric_families(self.text)
        return {family.name: _as_written(family, declared) for family in read}

    def samples(self, name: str, **labels: str | int) -> list[Sample]:
        """The samples of a series' name that have these labels, as in gpu=3."""
        wanted = {key: str(value) for key, value in labels.items()}.items()
        return [one for one in self._named(name) if wanted <= one.labels.items()]

    def value(self, name: str, **labels: str | int) -> float:
        """The value of the one sample of that name with these labels.

        Raises:
            SpecError: If there is none, or more than one.
        """
        found = self.samples(name, **labels)
        if len(found) != 1:
            raise SpecError(self._not_one(name, labels, found))
        return float(found[0].value)

    def _named(self, name: str) -> Iterator[Sample]:
        for family in self.families.values():
            for one in family.samples:
                if one.name == name:
                    yield one

    def _not_one(self, name: str, labels: dict[str, str | int], found: list[Sample]) -> str:
        asked = name + (f" with {labels}" if labels else "")
        if found:
            several = "; ".join(str(one.labels) for one in found[:_SHOWN])
            return f"{asked}: {len(found):,} samples, as {several}: give more labels"
        if not self.up:
            return f"{asked}: the node is down"
        known = {one.name for family in self.families.values() for one in family.samples}
        if name in known:
            there = "; ".join(str(one.labels) for one in self.samples(name)[:_SHOWN])
            return f"{asked}: no such sample; there are {there}"
        near = nearest(name, sorted(known))
        hint = f": did you mean {near}?" if near else ""
        return f"no series is called {name!r}{hint}"


def _as_written(family: Metric, lines: set[str]) -> Metric:
    """The family with its samples' names as on the page.

    The parser lets all counters end in `_total`; those of dcgm-exporter do not.
    """
    if f"# TYPE {family.name} counter" in lines:
        family.samples = [one._replace(name=family.name) for one in family.samples]
    return family
