"""A drill: the player asks line by line, run time moves only when the player watches.

Nothing here knows a clock or a terminal: lines come from `Keyboard`, go to `say`.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from ghosttrain.core.errors import RequestError
from ghosttrain.core.events import IncidentLabelled
from ghosttrain.core.identity import host_name
from ghosttrain.drill.choice import Case
from ghosttrain.drill.evidence import WHERE
from ghosttrain.drill.grading import (
    HINT_COST,
    TRIES,
    Answer,
    grade,
    read_answer,
    shown_s,
    verdict,
)
from ghosttrain.drill.log import PlayersLog, step_interval
from ghosttrain.drill.readings import Readings
from ghosttrain.drill.reveal import Deed, reveal_lines
from ghosttrain.drill.tables import (
    Look,
    compare_table,
    describe_gpu,
    gpu_table,
    grid_lines,
    metrics_table,
    stalled_line,
    wrapped,
)
from ghosttrain.inputs.durations import parse_duration
from ghosttrain.views.renderables.line import Line
from ghosttrain.views.renderables.numbers import count, duration

COMMANDS = {
    "watch": ("[TIME]", "let the run go on for TIME and read its log"),
    "log": ("[TIME]", "read the log of the last TIME again"),
    "metrics": ("[TIME]", "step time, MFU, loss and more: at first and now"),
    "compare": ("[TIME]", "nodes with one another, and GPUs that stand out"),
    "gpus": ("[node N]", "the GPU grid as it is now"),
    "gpu": ("N", "all signals of one GPU"),
    "xid": ("", "what the kernels have logged so far"),
    "hint": ("", f"a hint, for {HINT_COST} points"),
    "diagnose": ("CLASS [PLACE]", f"say what it is and where; {TRIES} tries"),
    "reveal": ("", "see the truth, and end"),
    "help": ("", "this"),
    "quit": ("", "end"),
}  # fmt: skip
_STRETCHES_S = (60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400, 7 * 86400)
_STRETCHES_A_RUN = 30  # about so many default watches take one through
_FRAMES = 30  # pieces of a watch, so that it can be stopped in between
_FIRST_STEPS = (10, 110)  # after the start of training: past the slow ones


class Keyboard(Protocol):
    """Where the player's lines come from."""

    def ask(self, prompt: str) -> str | None:
        """The next line, None when there is none any more."""

    def watching(self) -> AbstractContextManager[Callable[[], bool]]:
        """While it is open, what it gives says after each piece whether to go on."""


class Session:
    """One drill.

    Attributes:
        now_s: Run time the player has come to.
        is_revealed: Whether the truth has been shown.
    """

    def __init__(
        self,
        case: Case,
        keyboard: Keyboard,
        *,
        say: Callable[[Iterable[Line]], None],
        look: Callable[[], Look],
    ) -> None:
        self.case, self.is_revealed = case, False
        self._keyboard, self._say, self._look = keyboard, say, look
        self._run = case.run
        self._readings = Readings(case.run)
        self._log = PlayersLog(case.run, look().glyphs)
        onset_s = min(label.onset_s for label in (*case.labels, *case.lookalikes))
        self.now_s = min(self._readings.training_s, onset_s)
        self._stretch_s = _default_stretch_s(case.run.plan.run_s)
        self._watched_from_s = self.now_s
        self._answers: list[Answer] = []
        self._deeds: list[Deed] = []
        self._hints = 0
        self._facts_told = 0

    def play(self) -> None:
        """Answer commands until the end."""
        self._say(self._greeting())
        while not self.is_revealed:
            line = self._keyboard.ask(self._prompt())
            if line is None or not self._obey(line):
                break
        if not self.is_revealed and self._answers:
            self._reveal()

    def _greeting(self) -> list[Line]:
        spec, plan = self._run.spec, self._run.plan
        steps = f"{spec.recipe.total_steps:,} steps, about {duration(plan.run_s)}"
        nodes = f"{spec.cluster.nodes:,} node" + "s" * (spec.cluster.nodes != 1)
        gpus = f"{spec.cluster.gpus:,} × {spec.gpu.name} on {nodes}"
        size = f"{count(plan.params.total)} parameters"
        pace = f"{plan.step_time.total_s:.3f} s a step, {plan.tokens_per_s:,.0f} tok/s planned"
        stretch = duration(self._stretch_s)
        what = f"{spec.model.name}, {size}, {gpus}: {steps}, {pace}."
        return [
            *wrapped(what, self._look().width),
            Line.of("Something will go wrong. Find out what, and where, before the run does."),
            Line.of(
                ("watch", "cyan"), f" lets {stretch} go by; ", ("help", "cyan"),
                " has the rest. Training begins.",
            ),
        ]  # fmt: skip

    def _prompt(self) -> str:
        return f"{duration(self.now_s)} step {self._readings.done(self.now_s):,}> "

    # Commands.

    def _obey(self, line: str) -> bool:
        """Do what a line asks; False to end."""
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            words = line.split()
        if not words:
            return True
        name, rest = words[0].casefold(), words[1:]
        if name in ("quit", "exit", "q"):
            return False
        try:
            self._do(name, rest)
        except RequestError as error:
            self._tell(str(error), style="yellow")
        return True

    def _do(self, name: str, rest: list[str]) -> None:
        match name:
            case "watch":
                self._watch(self._stretch(rest))
            case "log":
                self._reread(self._stretch(rest))
            case "metrics":
                self._metrics(rest)
            case "compare":
                self._compare(rest)
            case "gpus":
                self._grid(rest)
            case "gpu":
                self._gpu(rest)
            case "xid":
                lines = list(self._log.kernel_lines(self.now_s, self._look().width))
                self._say(lines or [Line.of("The kernels have logged nothing.")])
            case "hint":
                self._hint()
            case "diagnose":
                self._diagnose(rest)
            case "reveal":
                self._reveal()
            case "help" | "?":
                self._say(_help(self._stretch_s))
            case _:
                near = difflib.get_close_matches(name, [*COMMANDS, "quit"], n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}?" if near else "`help` lists what there is"
                raise RequestError(f"unknown command {name[:60]!r}: {hint}")

    def _stretch(self, words: list[str]) -> float:
        """The TIME in `words`, the usual one without."""
        return parse_duration(" ".join(words)) if words else self._stretch_s

    def _watch(self, time_s: float) -> None:
        begin_s = self.now_s
        stop_s = min(begin_s + time_s, self._run.end_s)
        if begin_s >= self._run.end_s:
            self._tell("The run is over.")
            return
        every = step_interval((stop_s - begin_s) / self._run.plan.step_time.total_s)
        with self._keyboard.watching() as goes_on:
            for piece in range(1, _FRAMES + 1):
                to_s = begin_s + (stop_s - begin_s) * piece / _FRAMES
                if piece == _FRAMES:
                    to_s = stop_s
                self._print_log(self.now_s, to_s, every)
                self.now_s = to_s
                if not goes_on():
                    break
        self._watched_from_s = begin_s

    def _print_log(self, start_s: float, stop_s: float, every: int) -> None:
        if stop_s >= self._run.end_s:
            stop_s = float("inf")
        self._say(self._log.lines(start_s, stop_s, every=every, width=self._look().width))

    def _reread(self, time_s: float) -> None:
        start_s = max(0.0, self.now_s - time_s)
        every = step_interval((self.now_s - start_s) / self._run.plan.step_time.total_s)
        self._print_log(start_s, self.now_s, every)

    def _since(self, words: list[str]) -> float:
        """Start of the last TIME, or of what was watched last, past the first slow steps."""
        start_s = self.now_s - parse_duration(" ".join(words)) if words else self._watched_from_s
        warm_s = self._readings.training_s + _FIRST_STEPS[0] * self._run.plan.step_time.total_s
        return max(warm_s if warm_s < self.now_s else self._readings.training_s, start_s)

    def _metrics(self, words: list[str]) -> None:
        readings, step_s = self._readings, self._run.plan.step_time.total_s
        first_s, last_s = (readings.training_s + n * step_s for n in _FIRST_STEPS)
        first = readings.steps(min(first_s, self.now_s), min(last_s, self.now_s))
        stretch = readings.steps(self._since(words), self.now_s)
        ended = readings.steps(readings.training_s, self.now_s) if stretch is None else stretch
        lines = metrics_table(first, stretch, self._look())
        if ended is not None:
            lines += stalled_line(int(ended.step[-1]), float(ended.end_s[-1]), self.now_s, step_s)
        self._say(lines)

    def _compare(self, words: list[str]) -> None:
        stretch = self._readings.telemetry(self._since(words), self.now_s)
        usual = self._readings.usual(self.now_s)
        self._say(compare_table(stretch, usual, self._run.spec, self._look()))

    def _grid(self, words: list[str]) -> None:
        spec, node = self._run.spec, None
        if words:
            node = _number("node", words, spec.cluster.nodes)
        self._say(grid_lines(self._run.fleet(self.now_s), spec, self._look(), node))

    def _gpu(self, words: list[str]) -> None:
        spec = self._run.spec
        gpu = _number("gpu", words, spec.cluster.gpus)
        host = host_name(spec.cluster, gpu // spec.cluster.gpus_per_node)
        stretch = self._readings.telemetry(self._since([]), self.now_s)
        now, usual = self._readings.at(self.now_s), self._readings.usual(self.now_s)
        place = describe_gpu(gpu, spec, host)
        width = self._look().width
        self._say(gpu_table(gpu, now, stretch, usual, place=place, width=width))

    # Hints, answers, the end.

    def _hint(self) -> None:
        """The next fact about the incident that came last; each hint costs the same."""
        begun = [label for label in self.case.labels if shown_s(label) <= self.now_s]
        if not begun:
            text = "nothing that matters has shown itself so far"
        else:
            facts = _facts(begun[-1], self._run.spec.cluster.gpus_per_node)
            if self._facts_told >= len(facts):
                self._tell("No more hints: this one costs nothing.")
                return
            text = facts[self._facts_told]
            self._facts_told += 1
        self._hints += 1
        self._note(f"hint: {text}")
        self._tell(f"Hint {self._hints} (-{HINT_COST} points): {text}.")

    def _diagnose(self, words: list[str]) -> None:
        answer = read_answer(words, self._run.spec, self.now_s)
        self._answers.append(answer)
        verdict_ = verdict(answer, self.case.labels)
        self._note(f"diagnose {answer.kind} {answer.entity or '(no place)'}: {verdict_}")
        left = TRIES - len(self._answers)
        if verdict_ == "right":
            self._tell("Right.", style="bold green")
        else:
            tries = {0: "no tries left", 1: "1 try left"}.get(left, f"{left} tries left")
            word = "Partly right" if verdict_ == "partly" else "Wrong"
            self._tell(f"{word}: {tries}.", style="yellow")
        if verdict_ == "right" or not left:
            self._reveal()

    def _reveal(self) -> None:
        self.is_revealed = True
        labels, end_s = self.case.labels, self._run.end_s
        graded = grade(self._answers, labels, hints=self._hints, end_s=end_s)
        width = self._look().width
        self._say(reveal_lines(self.case, self._log, self._deeds, graded, width))

    def _note(self, text: str) -> None:
        self._deeds.append(Deed(self.now_s, self._readings.done(self.now_s), text))

    def _tell(self, text: str, *, style: str = "") -> None:
        self._say([Line.of((text, style))])


def _facts(label: IncidentLabelled, per_node: int) -> tuple[str, ...]:
    """What hints tell, one after the other."""
    name, time_s = label.signals[0]
    where, words = WHERE.get(name, ("log", name.replace("_", " ")))
    place = f"it concerns what all share: {label.entity}"
    if label.scope in ("gpu", "node"):
        place = f"it is at node {label.first_rank // per_node}"
    elif label.scope == "rack":
        place = f"it is at the {label.entity}"
    return (
        f"{words} shows it since {duration(time_s)}; look at `{where}`",
        f"it is of the family {label.family}",
        place,
    )


def _number(sort: str, words: list[str], limit: int) -> int:
    """The N of `gpu N` or `gpus node N`."""
    text = words[-1] if words else ""
    is_named = len(words) == 1 or (len(words) == 2 and words[0].casefold() == sort)
    if not (is_named and text.isascii() and text.isdigit() and int(text[:12]) < limit):
        command = "gpu N" if sort == "gpu" else "gpus node N"
        raise RequestError(f"`{command}` with a {sort} from 0 to {limit - 1:,}")
    return int(text)


def _default_stretch_s(run_s: float) -> float:
    wanted = run_s / _STRETCHES_A_RUN
    return float(next((s for s in _STRETCHES_S if s >= wanted), _STRETCHES_S[-1]))


def _help(stretch_s: float) -> list[Line]:
    lines = [
        Line.of((f"  {f'{name} {words}':24}", "cyan"), about)
        for name, (words, about) in COMMANDS.items()
    ]
    usual = f"TIME as in 20min or 2h10min; left out, {duration(stretch_s)} for watch and log,"
    lines.append(Line.of(usual))
    lines.append(Line.of("  what was watched last for metrics and compare."))
    classes = "CLASS is a name of `ghosttrain list faults`; PLACE is gpu N, node N, rack N,"
    places = "  fabric, storage or job. As in `diagnose gpu-off-bus gpu 17`."
    return [*lines, Line.of(classes), Line.of(places)]
