"""How good a diagnosis is: pure arithmetic, documented in docs/drill.md.

The weights are chosen: what and where count the same, and both before how soon.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ghosttrain import catalog
from ghosttrain.core.errors import RequestError
from ghosttrain.core.events import IncidentLabelled
from ghosttrain.core.identity import host_name, nodes_per_rack
from ghosttrain.core.spec import RunSpec

CLASS_POINTS = PLACE_POINTS = 40
TIME_POINTS = 20
HINT_COST = WRONG_COST = 10
TRIES = 3
# A person needs some minutes to look, even where the run itself fails within a second: as long
# as the watchdog of a collective waits by default.
LEAST_ALLOWED_S = 600.0

Verdict = Literal["right", "partly", "wrong"]
SHARED = ("fabric", "storage", "job")
_PLACE = re.compile(r"(gpu|rank|node|rack)[\s:_-]*(\d{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said when: the class by its catalogue name; `entity` None where none was named."""

    time_s: float
    kind: str
    entity: str | None


@dataclass(frozen=True, slots=True)
class Grade:
    """Points, and what they are for.

    Attributes:
        answer: The answer that counts, None where there was none.
        label: The incident it is held to.
        hints, wrong: What hints and other tries cost.
    """

    answer: Answer | None
    label: IncidentLabelled | None
    for_class: int
    for_place: int
    for_time: int
    hints: int
    wrong: int

    @property
    def score(self) -> int:
        """0 to 100."""
        gained = self.for_class + self.for_place + self.for_time
        return max(0, gained - self.hints - self.wrong)


def read_answer(words: Sequence[str], spec: RunSpec, time_s: float) -> Answer:
    """The answer in `words`: CLASS, then the ENTITY.

    Raises:
        RequestError: If there is no such class, or no such place in the run.
    """
    if not words:
        raise RequestError("diagnose what? As in `diagnose gpu-off-bus gpu 17`")
    kind = catalog.fault_kind(words[0])
    entity = " ".join(words[1:]).strip().casefold()
    if entity:
        return Answer(time_s, kind.name, _read_place(entity, spec))
    return Answer(time_s, kind.name, kind.scope if kind.scope in SHARED else None)


def _read_place(text: str, spec: RunSpec) -> str:
    """The entity as labels name it: `GPU-17` is gpu 17, a host name its node."""
    cluster = spec.cluster
    for node in range(cluster.nodes):
        if text == host_name(cluster, node):
            return f"node {node}"
    if text in SHARED:
        return text
    found = _PLACE.fullmatch(text)
    if found is None:
        raise RequestError(
            f"no place {text[:60]!r}: name one as gpu 17, node 2, rack 0, fabric, storage or job"
        )
    sort, number = "gpu" if found[1] == "rank" else found[1], int(found[2])
    racks = -(-cluster.nodes // nodes_per_rack(spec.gpu, cluster))
    count = {"gpu": cluster.gpus, "node": cluster.nodes, "rack": racks}[sort]
    if number >= count:
        raise RequestError(f"there is no {sort} {number:,}: the run has {sort} 0 to {count - 1:,}")
    return f"{sort} {number}"


def verdict(answer: Answer, labels: Sequence[IncidentLabelled]) -> Verdict:
    """What the player is told: no more than that."""
    best = max((_fit(answer, label) for label in labels), default=(0, 0))
    if best == (CLASS_POINTS, PLACE_POINTS):
        return "right"
    return "partly" if any(best) else "wrong"


def grade(
    answers: Sequence[Answer],
    labels: Sequence[IncidentLabelled],
    *,
    hints: int,
    end_s: float,
) -> Grade:
    """The grade of all answers together: the best counts, each other costs.

    Args:
        answers: In order of time.
        labels: The truth, without lookalikes.
        hints: How many were taken.
        end_s: End of the run: when it has noticed at the latest.
    """
    graded = [_graded(answer, label, end_s) for answer in answers for label in labels]
    best = max(graded, key=lambda g: g.for_class + g.for_place + g.for_time, default=None)
    costs = HINT_COST * hints, WRONG_COST * max(0, len(answers) - 1)
    if best is None:
        return Grade(None, None, 0, 0, 0, *costs)
    return Grade(best.answer, best.label, best.for_class, best.for_place, best.for_time, *costs)


def shown_s(label: IncidentLabelled) -> float:
    """When the first signal showed it."""
    return max(label.onset_s, min((time_s for _, time_s in label.signals), default=label.onset_s))


def allowed_s(label: IncidentLabelled, end_s: float) -> float:
    """How long the run itself takes to notice, but not less than a person needs to look."""
    noticed_s = end_s if label.detected_s is None else label.detected_s
    return max(LEAST_ALLOWED_S, noticed_s - shown_s(label))


def _graded(answer: Answer, label: IncidentLabelled, end_s: float) -> Grade:
    for_class, for_place = _fit(answer, label)
    late = max(0.0, answer.time_s - shown_s(label)) / allowed_s(label, end_s)
    # As much of the points for time as of those for class and place.
    share = (for_class + for_place) / (CLASS_POINTS + PLACE_POINTS)
    for_time = round(share * TIME_POINTS * max(0.0, 1 - late / 2))
    return Grade(answer, label, for_class, for_place, for_time, 0, 0)


def _fit(answer: Answer, label: IncidentLabelled) -> tuple[int, int]:
    """Points for class and place; none for what had not begun when it was said."""
    if answer.time_s < label.onset_s:
        return 0, 0
    for_class = for_place = 0
    if answer.kind == label.kind:
        for_class = CLASS_POINTS
    elif catalog.fault_kind(answer.kind).family == label.family:
        for_class = CLASS_POINTS // 2
    if answer.entity == label.entity:
        for_place = PLACE_POINTS
    elif label.entity.startswith("gpu ") and answer.entity == f"node {label.node}":
        for_place = PLACE_POINTS // 2
    return for_class, for_place
