"""The end of a drill: the truth, what happened when, what could be seen, the score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ghosttrain import catalog
from ghosttrain.core.events import (
    FaultOccurred,
    IncidentLabelled,
    MessageLogged,
    Phase,
    PhaseStarted,
    RunAborted,
    RunRestarted,
    WatchdogTimedOut,
)
from ghosttrain.core.identity import host_name
from ghosttrain.drill.choice import Case
from ghosttrain.drill.evidence import Measuring
from ghosttrain.drill.grading import (
    CLASS_POINTS,
    PLACE_POINTS,
    TIME_POINTS,
    Grade,
    allowed_s,
    shown_s,
)
from ghosttrain.drill.log import PlayersLog
from ghosttrain.drill.readings import NO_SAMPLES, Readings
from ghosttrain.drill.tables import wrapped
from ghosttrain.views.renderables.line import Line
from ghosttrain.views.renderables.log_lines import log_lines
from ghosttrain.views.renderables.numbers import duration

_DONE = {
    "swap": "The node is swapped for a spare, and the run goes on from its last checkpoint.",
    "reset": "The GPU is reset, and the run goes on from its last checkpoint on the same nodes.",
    "reboot": "The host is rebooted, and the run goes on from its last checkpoint.",
    "repair": "The part is repaired; the same nodes go on.",
    "relaunch": "The processes are launched again from the last checkpoint.",
    "rollback": "The run goes back to a checkpoint from before it, and skips batches of data.",
    "exclude": "The node is left out at the next launch.",
    "self": "Nothing: it ends by itself. Whoever knows that loses no time on it.",
}
_MOST_MESSAGES = 12  # of an incident in the timeline, the first ones
_STAMP_CELLS = len("[2026-11-23 12:41:07] ")


@dataclass(frozen=True, slots=True)
class Deed:
    """Something the player did: an answer or a hint."""

    time_s: float
    step: int
    text: str


def reveal_lines(
    case: Case, log: PlayersLog, deeds: Sequence[Deed], grade: Grade, width: int
) -> Iterator[Line]:
    """The whole reveal."""
    yield from _heading("The truth")
    if case.title:
        yield Line.of((case.title, "bold"), f" (scenario {case.scenario})")
        yield from wrapped(case.story, width)
    for label in case.labels:
        yield from _truth(label, case, width)
    for label in case.lookalikes:
        text = f"Beside it, harmless: {label.kind}, {label.entity}, from {_at(label.onset_s)}"
        yield Line.of((text, "dim"))
    yield from _heading("What happened")
    yield from _happened(case, log, deeds)
    yield from _heading("What could be seen")
    for label in case.labels:
        yield from _seen(label, case, log, width)
    yield from _heading("What is done about it")
    for kind in dict.fromkeys(label.kind for label in case.labels):
        recovery = catalog.fault_kind(kind).recovery
        yield from wrapped(f"{kind}: {_DONE[recovery]}", width)
    yield from _heading("Score")
    yield from _score(grade, case.run.end_s, width)


def _truth(label: IncidentLabelled, case: Case, width: int) -> Iterator[Line]:
    kind = catalog.fault_kind(label.kind)
    severity = f", severity {label.severity:.3g}" if label.severity else ""
    host = host_name(case.run.spec.cluster, label.node)
    place = f"{label.entity} ({host})" if label.entity.startswith(("gpu", "node")) else label.entity
    step = case.run.timeline.incidents[label.incident - 1].step
    yield Line.of((label.kind, "bold yellow"), f" on {place}{severity}")
    yield from wrapped(
        f"{kind.title}, from {_at(label.onset_s)}, step {step:,}. {kind.note}", width
    )
    noticed = "never noticed by the run itself"
    if label.detected_s is not None:
        noticed = f"noticed by the run itself at {_at(label.detected_s)}"
    cost = f"cost {duration(label.lost_s)} and {label.steps_lost:,} steps"
    yield from wrapped(f"First shown at {_at(shown_s(label))}, {noticed}, {cost}.", width)


def _happened(case: Case, log: PlayersLog, deeds: Sequence[Deed]) -> Iterator[Line]:
    """Hidden events, the machine's first messages and the player's deeds, in order of time."""
    rows = [(deed.time_s, 1, deed.step, f"you: {deed.text}", "cyan") for deed in deeds]
    told: dict[int, int] = {}
    begin_s = min(label.onset_s for label in (*case.labels, *case.lookalikes))
    for event in case.run.events(begin_s, float("inf"), sample_every=NO_SAMPLES):
        match event:
            case FaultOccurred() | IncidentLabelled() | RunAborted() | RunRestarted():
                style = "yellow" if isinstance(event, FaultOccurred) else ""
                step = getattr(event, "step", None)
            case MessageLogged() | WatchdogTimedOut():
                told[event.fault] = told.get(event.fault, 0) + 1
                if told[event.fault] > _MOST_MESSAGES:
                    continue
                style, step = "dim", event.step
            case PhaseStarted(phase=Phase.HANG | Phase.DOWN):
                style, step = "", event.step
            case _:
                continue
        if text := _telling(log_lines(event, log.card)):
            rows.append((event.time_s, 0, -1 if step is None else step, text, style))
    rows.sort(key=lambda row: row[:2])
    for time_s, _, step, text, style in rows:
        at = "" if step < 0 else f"step {step:,}"
        yield Line.of((f"  {duration(time_s):>7}  {at:12} ", "dim"), (text, style))


def _telling(lines: Sequence[Line]) -> str:
    """The one of a message's lines that says most: the first, of a block the last."""
    texts = [line.text[_STAMP_CELLS:].partition(" ")[2].strip() for line in lines]
    if not texts:
        return ""
    block = [text for text in texts if not text.startswith("(and ")]
    return block[-1] if texts[0].endswith(":") and block else texts[0]


def _seen(label: IncidentLabelled, case: Case, log: PlayersLog, width: int) -> Iterator[Line]:
    def first_log(time_s: float) -> str:
        for event in case.run.events(time_s, case.run.end_s, sample_every=NO_SAMPLES):
            is_its = isinstance(event, MessageLogged | WatchdogTimedOut) and (
                event.fault == label.incident
            )
            if is_its and (text := _telling(log_lines(event, log.card))):
                return text
        return ""

    if len(case.labels) > 1:
        yield Line.of((f"{label.kind}, {label.entity}", "bold"))
    for found in Measuring(Readings(case.run), label, first_log).all():
        head = f"  {duration(found.time_s):>7}  {found.name:16} "
        whole = Line.of(head, (f"{found.where:8} ", "cyan"), found.size)
        if len(whole) <= width:
            yield whole
        else:
            yield Line.of(head, (found.where, "cyan"))
            yield from wrapped(found.size, width, indent=" " * 11)


def _score(grade: Grade, end_s: float, width: int) -> Iterator[Line]:
    answer, label = grade.answer, grade.label
    if answer is None or label is None:
        yield Line.of("No diagnosis was made.")
    else:
        place = answer.entity or "no place"
        yield Line.of(f"What counts: {answer.kind}, {place}, at {_at(answer.time_s)}")
        late_s = answer.time_s - shown_s(label)
        out = duration(2 * allowed_s(label, end_s))
        when = f"{duration(late_s)} after" if late_s >= 0 else f"{duration(-late_s)} before"
        yield from wrapped(
            f"That was {when} the first sign; the points for time run out {out} after it.",
            width,
        )
    yield from wrapped(
        f"Class {grade.for_class}/{CLASS_POINTS}, place {grade.for_place}/{PLACE_POINTS},"
        f" time {grade.for_time}/{TIME_POINTS}, hints -{grade.hints}, other tries -{grade.wrong}.",
        width,
    )
    style = "bold green" if grade.score >= 60 else "bold yellow"
    yield Line.of((f"Score: {grade.score} of 100", style))


def _heading(text: str) -> Iterator[Line]:
    yield Line.of("")
    yield Line.of((text, "bold cyan"))


def _at(time_s: float) -> str:
    """A moment: run time, to the second."""
    return duration(time_s)
