"""The faults a log has told of: which stand, and what they may change while they do.

What a kind does is known from the catalogue; that it stands is known from the log alone. A fault
stands from its onset until its label, or until a launch that takes its cause away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import get_args

from ghosttrain import catalog
from ghosttrain.checking.observations import Observation
from ghosttrain.core.events import AbortReason
from ghosttrain.core.laws.faults import PACE_EFFECTS, SPIKE_GONE_STEPS
from ghosttrain.core.spec import Effect, FaultKind

SLOWING: tuple[Effect, ...] = (*PACE_EFFECTS, "stall")
# A soft change takes hold, and lets go, when the step in progress is over.
STEPS_TO_TAKE_HOLD = 1
FIRST_TOUCHED = 2  # steps after the last one before an onset: the one in progress is not
ROLLBACK_MARGIN_STEPS = 100  # from the checkpoint that is gone back to, to the first bad step


@dataclass(slots=True)
class Fault:
    """One fault, as far as the log has told of it.

    Attributes:
        number: Its number in the log.
        told: The row that told its onset.
        kind: What the catalogue says of it, None where it has no such kind.
        step: Last completed step at its onset, None while steps are unknown.
        label: Its label, None while there is none.
        over_step: Last completed step when it was over.
        is_undone: A launch has taken its cause or its traces away.
        aborted: The row that ended a launch because of it.
        relaunched: The row that told the launch after it.
        met: Aborts while it stood, of one that is undone by going back.
        loss_nan_step: First step whose loss was no number while it stood.
    """

    number: int
    told: Observation
    kind: FaultKind | None
    step: int | None
    label: Observation | None = None
    over_step: int | None = None
    is_undone: bool = False
    aborted: Observation | None = None
    relaunched: Observation | None = None
    loss_nan_step: int | None = None
    met: list[Observation] = field(default_factory=list)

    @property
    def stands(self) -> bool:
        """Whether its cause is there, as far as is known."""
        return self.label is None and not self.is_undone

    @property
    def effect(self) -> Effect:
        """What it changes."""
        return self.kind.effect if self.kind is not None else "none"

    @property
    def reasons(self) -> tuple[AbortReason, ...]:
        """For which reasons it may end a launch; any where nobody knows its kind."""
        kind = self.kind
        if kind is None:
            return get_args(AbortReason)
        if kind.course in ("crash", "hang") or kind.effect == "full-storage":
            return ("fault",)
        if kind.course == "stop":
            return ("preempted",) if kind.scope == "job" else ("maintenance",)
        if kind.recovery == "rollback":
            return ("rollback",)
        return ("operator",) if kind.recovery not in ("self", "repair") else ()

    @property
    def asks_to_end(self) -> bool:
        """Whether somebody may ask the run to save and end because of it."""
        return bool({"preempted", "maintenance", "operator"} & set(self.reasons))

    @property
    def name(self) -> str:
        """Its number and kind, for messages."""
        return f"fault {self.number} ({self.told.words.get('kind', 'of no kind')})"

    @property
    def strikes(self) -> bool:
        """Whether it ends a launch by itself."""
        return "fault" in self.reasons

    @property
    def takes_nodes(self) -> bool:
        """Whether whole nodes are gone when it has struck."""
        return self.kind is not None and self.kind.takes_gpus and self.kind.scope != "gpu"

    def shows_at(self, step: int | float | None) -> bool:
        """Whether a step that it touches has ended by `step`."""
        return self.step is not None and step is not None and step >= self.step + FIRST_TOUCHED

    @property
    def latest_safe_step(self) -> float:
        """The last checkpoint to go back to when it is to be undone: well before it."""
        return max(0.0, (self.step or 0) + FIRST_TOUCHED - ROLLBACK_MARGIN_STEPS)

    def gpus(self) -> range:
        """The GPUs it sits at, none where the log does not say."""
        first, count = self.told.get("gpu"), self.told.get("gpus")
        if first is None:
            return range(0)
        return range(int(first.value), int(first.value + (count.value if count else 1)))


@dataclass(slots=True)
class FaultBook:
    """All faults of a run."""

    by_number: dict[int, Fault] = field(default_factory=dict)
    told: int = 0
    has_slowed: bool = False  # one of them slows steps
    recent: list[Fault] = field(default_factory=list)  # those that stand or may still be felt
    signs: set[tuple[str, int]] = field(default_factory=set)  # names and GPUs of what may show

    def occurred(self, o: Observation, step: int | None) -> None:
        """A fault has begun."""
        self.told += 1
        number = o.get("fault")
        at = int(number.value) if number is not None else self.told
        fault = Fault(at, o, kind_of(o.words.get("kind", "")), step)
        self.by_number[at] = fault
        self.recent.append(fault)
        self.has_slowed |= fault.kind is None or fault.effect in SLOWING
        if fault.kind is not None and len(fault.gpus()):
            names = [fault.kind.sign] * (fault.kind.sign != "none") + ["xid"] * bool(
                fault.kind.xids
            )
            self.signs |= {(name, fault.gpus()[0]) for name in names}

    def labelled(self, o: Observation, step: int | None) -> None:
        """A fault is over."""
        fault = self.of(o, "incident")
        if fault is not None:
            fault.label = o
            if not fault.is_undone:
                fault.over_step = step
            self._forget(step)

    def aborted(self, o: Observation) -> Fault | None:
        """A launch has ended: the fault behind it, None where the log leaves that open."""
        cause = self.of(o) or self._only_cause(o.words.get("reason", ""))
        if cause is not None:
            cause.aborted = o
        for fault in self.astray():
            fault.met.append(o)
        return cause

    def relaunched(self, o: Observation, cause: Fault | None) -> None:
        """A launch begins after `cause` ended the last one: what that takes away is gone."""
        if cause is not None:
            cause.relaunched = o
        for fault in self.recent:  # what was to strike the old processes finds others
            course = fault.kind.course if fault.kind is not None else "crash"
            fault.is_undone |= fault is cause or course in ("crash", "hang", "stop", "stall")
        # What lasts beyond its label is in the losses, which the same data bring again.
        self.recent = [f for f in self.recent if f.stands or f.effect == "loss-spike"]

    def saw_nan(self, step: int) -> None:
        """The loss of `step` is no number."""
        for fault in self.standing("loss-nan"):
            if fault.loss_nan_step is None:
                fault.loss_nan_step = step

    def of(self, o: Observation, name: str = "fault") -> Fault | None:
        """The fault a row names, None where it names none that is known."""
        number = o.get(name)
        return self.by_number.get(int(number.value)) if number is not None else None

    def _only_cause(self, reason: str) -> Fault | None:
        """The fault that ends a launch for `reason`, where only one that stands can."""
        causes = [fault for fault in self.standing() if reason in fault.reasons]
        return causes[0] if len(causes) == 1 else None

    def has_sign(self, name: str, gpu: int) -> bool:
        """Whether a fault has put such a counter or mark on that GPU."""
        return (name, gpu) in self.signs

    def swapped(self, gpus: range) -> None:
        """Other GPUs are in the places of these."""
        self.signs = {(name, gpu) for name, gpu in self.signs if gpu not in gpus}

    def standing(self, *effects: Effect) -> Iterator[Fault]:
        """Faults that stand, of these effects where any is given."""
        return (f for f in self.recent if f.stands and (not effects or f.effect in effects))

    def stands(self, *effects: Effect) -> bool:
        """Whether a fault of these effects stands."""
        return any(True for _ in self.standing(*effects))

    def places_since(self, began: Observation | None, *, but: Fault | None) -> set[int]:
        """Nodes that faults other than `but` sat at when `began` was told, or later."""
        since = began.time.value if began is not None and began.time is not None else 0.0
        return {
            int(node.value)
            for fault in self.by_number.values()
            if fault is not but and (node := fault.told.get("node")) is not None
            if fault.label is None or fault.label.time is None or fault.label.time.value >= since
        }

    def strikers(self) -> list[Fault]:
        """Faults that stand and end a launch by themselves."""
        return [fault for fault in self.standing() if fault.strikes]

    def astray(self) -> list[Fault]:
        """Faults that stand and that the run has to be taken back to before."""
        return [fault for fault in self.standing() if "rollback" in fault.reasons]

    def felt_until(self, *effects: Effect) -> float:
        """The last step that may show one of these effects, infinite while a fault stands."""
        last = 0.0
        for fault in self.recent:
            if fault.effect in effects:
                if fault.stands:
                    return float("inf")
                if fault.over_step is not None:
                    last = max(last, fault.over_step + _steps_felt(fault))
        return last

    def _forget(self, step: int | None) -> None:
        """Leave out those that cannot be felt any more."""
        self.recent = [
            fault
            for fault in self.recent
            if fault.stands
            or (fault.over_step is not None and fault.over_step + _steps_felt(fault) > (step or 0))
        ]


def _steps_felt(fault: Fault) -> int:
    """For how many steps a fault is felt after its label."""
    return SPIKE_GONE_STEPS if fault.effect == "loss-spike" else STEPS_TO_TAKE_HOLD


@lru_cache(maxsize=128)
def kind_of(name: str) -> FaultKind | None:
    """The catalogue's kind of exactly that name."""
    return catalog.fault_kind(name) if name in catalog.names("fault") else None
