"""Run: any window of a run, on demand.

`simulate(spec, seed)` plans, draws the timeline and returns a Run within milliseconds; nothing
dense exists until someone asks.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.cascade import Aside, Cascade
from ghosttrain.core.errors import SpecError
from ghosttrain.core.events import (
    AllReduceTested,
    CheckpointSaved,
    CollectiveSamples,
    EpochCompleted,
    Event,
    FleetSampled,
    FleetSamples,
    GpusDetected,
    IncidentLabelled,
    Phase,
    PhaseEnded,
    PhaseStarted,
    RunAborted,
    RunFinished,
    RunRestarted,
    RunStarted,
    ShardWritten,
    StepsCompleted,
    Summary,
    TrainingStarted,
    ValidationCompleted,
    WarningKind,
    WarningRaised,
)
from ghosttrain.core.fleet import FleetSource
from ghosttrain.core.history import draw_timeline
from ghosttrain.core.job import JobSource, JobState
from ghosttrain.core.laws.loss import next_token_accuracy
from ghosttrain.core.laws.network import bus_factor
from ghosttrain.core.laws.pace import BLOCK, LATE_LOADER, SLOW_COLLECTIVE, PaceClock
from ghosttrain.core.laws.storage import shard_name
from ghosttrain.core.node import NodeSource, NodeTelemetry
from ghosttrain.core.plan import Plan, plan
from ghosttrain.core.rng import Stream, normal_table
from ghosttrain.core.signals import SignalSource
from ghosttrain.core.spec import RunSpec
from ghosttrain.core.steps import StepColumns, StepSource
from ghosttrain.core.telemetry import Telemetry, TelemetrySource
from ghosttrain.core.timeline import (
    INIT_PHASES,
    Incident,
    Span,
    Timeline,
    expected_init_s,
    pace_clock,
    silent_nodes,
)
from ghosttrain.core.units import GB, TERA

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

COLLECTIVE_EVERY = 50  # steps between timings of the gradient collective
SAMPLE_EVERY = 10  # steps between samples of the fleet, unless asked otherwise
HANG_SAMPLE_S = 60.0  # between samples of the fleet while nothing moves
_CHUNK_STEPS = 4 * BLOCK  # computed together: NumPy's calls cost more than their work below
_MOST_VALUES = 1 << 18  # of one fleet metric in one event
_CONDENSED_ABOVE = 64  # GPUs: beyond it they report as one


def simulate(spec: RunSpec, seed: int) -> Run:
    """The run of `spec` under `seed`.

    Raises:
        SpecError: If a value of the spec makes no sense.
        PlanError: If the run cannot be.
    """
    planned = plan(spec)
    pace = pace_clock(planned, seed)
    return Run(planned, draw_timeline(planned, seed, pace), seed, pace)


class Run:
    """One simulated run: its plan, its timeline, and every window of its events."""

    def __init__(
        self, plan: Plan, timeline: Timeline, seed: int, pace: PaceClock | None = None
    ) -> None:
        self.plan, self.timeline, self.seed = plan, timeline, seed
        self._pace = pace = pace or pace_clock(plan, seed)
        self._steps = StepSource(plan, timeline, seed, pace)
        self._fleet = FleetSource(plan, timeline, seed, pace)
        self._signals = SignalSource(plan, seed)
        self._telemetry = TelemetrySource(plan, timeline, self._fleet, self._steps, self._signals)
        self._nodes = NodeSource(self._telemetry)
        self._job = JobSource(plan, timeline, self._steps)
        self._cascade = Cascade(plan, timeline, seed, self._done_at)
        self._collective_noise = Stream(seed, "collective")
        self._chunk = lru_cache(maxsize=2)(self._compute_chunk)

    def __reduce__(self) -> tuple[type[Run], tuple[Plan, Timeline, int]]:
        """A run is what it was made of: caches are not pickled with it."""
        return Run, (self.plan, self.timeline, self.seed)

    @property
    def spec(self) -> RunSpec:
        """What was asked."""
        return self.plan.spec

    @property
    def end_s(self) -> float:
        """Run time of the last event."""
        return self.timeline.end_s

    def span_at(self, time_s: float) -> Span:
        """The span that holds `time_s`; the last one after the end."""
        return self.timeline.spans[self.timeline.index_at(time_s)]

    def events(
        self, start_s: float, stop_s: float, *, sample_every: int = SAMPLE_EVERY
    ) -> Iterator[Event]:
        """The events of [start_s, stop_s) in order.

        Args:
            start_s: First moment.
            stop_s: Moment after the last; may be infinite.
            sample_every: Steps between fleet samples; a multiple gives some of the same
                samples. Collective timings follow at five times the least common multiple
                of that distance and 10.
        """
        if sample_every < 1:
            raise SpecError(f"sample_every is {sample_every}; it must be at least 1")
        spans = self.timeline.spans
        index = self.timeline.index_at(start_s)
        while index and spans[index - 1].end_s >= start_s:
            index -= 1  # what ends a span happens at its end, which is the next one's start
        for at in range(index, len(spans)):
            span = spans[at]
            if span.start_s >= stop_s:
                return
            if span.phase is Phase.TRAINING:
                yield from self._training(at, span, start_s, stop_s, sample_every)
            else:
                for event in self._around(span):
                    if start_s <= event.time_s < stop_s:
                        yield event

    def fleet(self, at_s: float) -> FleetSamples:
        """All GPUs at `at_s`: in a training span, as at the end of the step in progress."""
        index = self.timeline.index_at(at_s)
        span = self.timeline.spans[index]
        if index and at_s == span.start_s and self.timeline.spans[index - 1].steps:
            before = self.timeline.spans[index - 1]
            if not before.cut:
                span = before
        if span.phase is not Phase.TRAINING or not span.steps:
            return self._fleet.outside_steps(span, np.array([at_s]))
        number = self._number_at(span, at_s)
        columns = self._steps.columns(span, number, 1)
        factors = columns.step_time_s / self.plan.step_time.total_s
        sample = self._fleet.during_steps(span, np.array([number]), np.array([at_s]), factors)
        done = span.step + number + (1 if at_s >= columns.end_s[0] else 0)
        return replace(sample, step=np.array([done]))

    def labels(self) -> list[IncidentLabelled]:
        """The labels of all incidents, as the events give them when they are over."""
        told = self._cascade.between(0.0, math.inf)
        return [event for event in told if isinstance(event, IncidentLabelled)]

    def telemetry(self, times_s: F64, fields: Sequence[str] | None = None) -> Telemetry:
        """What drivers and exporters read of all GPUs at ascending moments.

        The values are those of `fleet(at)`, as DCGM reports them; `fields` names what is wanted
        (`core.telemetry.FIELDS`), None for all of it.

        Raises:
            SpecError: If the moments do not ascend or there is no such field.
        """
        return self._telemetry.at(times_s, fields)

    def nodes(self, times_s: F64, fields: Sequence[str] | None = None) -> NodeTelemetry:
        """What the nodes' own exporters read at ascending moments (`core.node.NODE_FIELDS`).

        Raises:
            SpecError: If the moments do not ascend or there is no such field.
        """
        return self._nodes.at(times_s, fields)

    def job(self, at_s: float) -> JobState:
        """The job at `at_s`: progress, the last step, faults and how the time was spent."""
        return self._job.at(at_s)

    def nodes_down(self, at_s: float) -> tuple[int, ...]:
        """Nodes of which nothing answers at `at_s`: crashed, without power, or rebooting."""
        per_node = min(self.spec.cluster.gpus_per_node, self.spec.cluster.gpus)
        return silent_nodes(self.timeline, self.span_at(at_s), at_s, per_node)

    def steps(self, first: int, last: int) -> StepColumns:
        """Steps `first` to `last` as they finally counted, in columns.

        Raises:
            SpecError: If the run has not all of these steps.
        """
        done = self.timeline.spans[-1].step
        if not 1 <= first <= last <= done:
            raise SpecError(f"steps {first} to {last} asked for; the run has 1 to {done}")
        parts = [
            self._steps.columns(span, low - span.step - 1, count)
            for span, low, count in self._counted(first, last, math.inf)
        ]
        names = StepColumns.__dataclass_fields__
        return StepColumns(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))

    def _counted(self, first: int, last: int, before_s: float) -> list[tuple[Span, int, int]]:
        """Where steps `first` to `last` were done that count at `before_s`.

        As (span, first step, number of steps), in order.
        """
        parts: list[tuple[Span, int, int]] = []
        need = last
        spans = self.timeline.spans
        for at in range(min(self.timeline.index_at(before_s), len(spans) - 1), -1, -1):
            span = spans[at]
            if span.phase is not Phase.TRAINING or span.start_s >= before_s:
                continue
            low = max(first, span.step + 1)
            if span.step < need <= span.step + span.steps:
                parts.append((span, low, need - low + 1))
                need = low - 1
            if need < first:
                break
        return parts[::-1]

    # Events of training spans.

    def _number_at(self, span: Span, time_s: float) -> int:
        """Position in the span of the step in progress at `time_s` (ending then, at its end)."""
        clock = (time_s - span.start_s) / span.step_time_s + self._pace.at(span.ordinal)
        number = self._pace.completed(clock) - span.ordinal
        number = max(0, min(number, span.steps - 1))
        for near in (number - 1, number):  # rounding may be off by one step
            if near >= 0 and time_s <= float(self._steps.end_s(span, near, 1)[0]):
                return near
        return min(number + 1, span.steps - 1)

    def _compute_chunk(self, index: int, block: int) -> tuple[int, StepColumns]:
        """Columns of the part of span `index` in a chunk of ordinals; its first position."""
        span = self.timeline.spans[index]
        first = max(block * _CHUNK_STEPS, span.ordinal)
        last = min((block + 1) * _CHUNK_STEPS, span.ordinal + span.steps)
        number = first - span.ordinal
        return number, self._steps.columns(span, number, last - first)

    def _training(
        self, index: int, span: Span, start_s: float, stop_s: float, sample_every: int
    ) -> Iterator[Event]:
        if self._begins_training(index) and start_s <= span.start_s < stop_s:
            yield TrainingStarted(span.start_s, span.attempt, span.step)
        aside = self._asides_in(max(start_s, span.start_s), min(stop_s, span.end_s))
        yield from self._training_events(index, span, start_s, stop_s, sample_every, aside)
        yield from aside
        if self._ends_epoch(span) and start_s <= span.end_s < stop_s:
            yield self._epoch(span)

    def _training_events(
        self,
        index: int,
        span: Span,
        start_s: float,
        stop_s: float,
        sample_every: int,
        aside: deque[Aside],
    ) -> Iterator[Event]:
        """Batches of steps, broken where asides come between steps."""
        if span.steps:
            begin = self._number_at(span, max(start_s, span.start_s))
            blocks = range(
                (span.ordinal + max(0, begin - 1)) // _CHUNK_STEPS,
                (span.ordinal + span.steps - 1) // _CHUNK_STEPS + 1,
            )
            for block in blocks:
                number, columns = self._chunk(index, block)
                low = int(np.searchsorted(columns.end_s, start_s, "left"))
                high = int(np.searchsorted(columns.end_s, stop_s, "left"))
                while aside and low < high:
                    # Steps that end before it or with it come first.
                    part = int(np.searchsorted(columns.end_s, aside[0].time_s, "right"))
                    if part >= high:
                        break
                    if low < part:
                        yield from self._batches(span, number, columns, low, part, sample_every)
                        low = part
                    yield aside.popleft()
                if low < high:
                    yield from self._batches(span, number, columns, low, high, sample_every)
                if high < len(columns.end_s):
                    return

    def _asides_in(self, start_s: float, stop_s: float) -> deque[Aside]:
        """What incidents make the run tell in [start_s, stop_s)."""
        return deque(self._cascade.between(start_s, stop_s))

    def _done_at(self, time_s: float) -> int:
        """Last completed step at a moment."""
        span = self.span_at(time_s)
        if span.phase is not Phase.TRAINING or not span.steps:
            return span.step
        number = self._number_at(span, time_s)
        ended = time_s >= float(self._steps.end_s(span, number, 1)[0])
        return span.step + number + ended

    def _begins_training(self, index: int) -> bool:
        return self.timeline.spans[index - 1].phase is Phase.ALL_REDUCE_TEST

    def _ends_epoch(self, span: Span) -> bool:
        done = span.step + span.steps
        return span.steps > 0 and not span.cut and done % self.spec.recipe.steps_per_epoch == 0

    def _batches(
        self, span: Span, number: int, c: StepColumns, low: int, high: int, sample_every: int
    ) -> Iterator[Event]:
        """Batches of steps [low, high) of a chunk, broken where warnings stand."""
        warnings = self._warnings(span, number, c, low, high)
        most = min(BLOCK, max(1, _MOST_VALUES // self.plan.spec.cluster.gpus) * sample_every)
        for start in range(low, high, most):
            stop = min(high, start + most)
            whole = self._batch(span, number, c, start, stop, sample_every)
            done = start
            for at in sorted(at for at in warnings if start <= at < stop):
                yield whole.part(done - start, at + 1 - start)
                yield from warnings[at]
                done = at + 1
            if done < stop:
                yield whole.part(done - start, stop - start)

    def _batch(
        self, span: Span, number: int, c: StepColumns, start: int, stop: int, sample_every: int
    ) -> StepsCompleted:
        cut = slice(start, stop)
        step = c.step[cut]
        every = COLLECTIVE_EVERY * (sample_every // math.gcd(sample_every, SAMPLE_EVERY))
        timed = start + np.flatnonzero(step % every == 0)
        sampled = start + np.flatnonzero((step % sample_every == 0) | (step == 1))
        fleet = collectives = None
        if len(sampled):
            factors = c.step_time_s[sampled] / self.plan.step_time.total_s
            fleet = self._fleet.during_steps(span, number + sampled, c.end_s[sampled], factors)
        if len(timed) and self.plan.gradient_collective.ranks > 1:
            collectives = self._collectives(span, number, c, timed)
        return StepsCompleted(
            span.attempt,
            step,
            c.end_s[cut],
            c.step_time_s[cut],
            c.loss[cut],
            c.grad_norm[cut],
            c.learning_rate[cut],
            c.tokens_per_s[cut],
            c.mfu[cut],
            c.eta_s[cut],
            fleet,
            collectives,
        )

    def _collectives(self, span: Span, number: int, c: StepColumns, at: I64) -> CollectiveSamples:
        """Timings at positions `at` of a chunk: 1 % noise, and a tail of slow ones."""
        base = self.plan.gradient_collective
        first = span.ordinal + number + int(at[0])
        lanes = self._collective_noise.lanes(first, int(at[-1] - at[0]) + 1)
        z = normal_table()[lanes[at - at[0], 0]]
        duration = base.duration_s * np.exp(0.01 * z + 0.03 * np.maximum(z - 1.5, 0)).astype(float)
        step = c.step[at]
        return CollectiveSamples(
            step=step,
            time_s=c.end_s[at],
            layer=(step // COLLECTIVE_EVERY * 7) % self.spec.model.layers,
            duration_s=duration,
            busbw_gbs=base.size_bytes * bus_factor(base.op, base.ranks) / duration / GB,
        )

    def _warnings(
        self, span: Span, number: int, c: StepColumns, low: int, high: int
    ) -> dict[int, list[WarningRaised]]:
        """Warnings due after steps [low, high) of a chunk, by position."""
        out: dict[int, list[WarningRaised]] = {}
        base = span.ordinal + number
        late = self._pace.hiccups(base + low, base + high)
        nodes = self.spec.cluster.nodes
        for i, ordinal in enumerate(late.ordinal.tolist()):
            at, kind = ordinal - base, int(late.kind[i])
            node = int(late.node_share[i] * nodes)
            time_s, step = float(c.end_s[at]), int(c.step[at])
            if kind in (LATE_LOADER, SLOW_COLLECTIVE):
                is_loader = kind == LATE_LOADER
                word = WarningKind.LATE_LOADER if is_loader else WarningKind.SLOW_COLLECTIVE
                value, usual = float(late.delay[i]) * span.step_time_s, span.step_time_s
            else:
                word = WarningKind.WARM_INLET
                value, usual = self._fleet.inlet_c(node, time_s, ordinal, span.attempt)
            warning = WarningRaised(time_s, word, step, node, None, value, usual)
            out.setdefault(at, []).append(warning)
        steps, sizes = self._steps.bursts(int(c.step[low]), int(c.step[high - 1]) + 1)
        for step, size in zip(steps.tolist(), sizes.tolist(), strict=True):
            at = step - int(c.step[0])
            value = float(c.grad_norm[at])
            if math.isnan(value):
                continue
            out.setdefault(at, []).append(
                WarningRaised(
                    float(c.end_s[at]),
                    WarningKind.GRAD_NORM_BURST,
                    step,
                    None,
                    None,
                    value,
                    value / size,
                )
            )
        return out

    def _epoch(self, span: Span) -> EpochCompleted:
        recipe = self.spec.recipe
        step = span.step + span.steps
        first = step - recipe.steps_per_epoch + 1
        return EpochCompleted(
            time_s=span.end_s,
            epoch=step // recipe.steps_per_epoch,
            step=step,
            mean_loss=self._steps.mean_loss(self._counted(first, step, span.end_s)),
            duration_s=span.end_s - self._last_begin_of(first, span.end_s),
            tokens=step * recipe.tokens_per_step,
        )

    def _last_begin_of(self, step: int, before_s: float) -> float:
        """When step `step` last began before `before_s`."""
        at = self.timeline.index_at(before_s)
        spans = self.timeline.spans
        for span in reversed(spans[: at + 1]):
            if span.phase is Phase.TRAINING and span.start_s < before_s:
                number = step - 1 - span.step
                if number == 0:
                    return span.start_s
                if 0 < number < span.steps:
                    return float(self._steps.columns(span, number - 1, 1).end_s[0])
        return 0.0

    # Events of all other spans.

    def _around(self, span: Span) -> Iterator[Event]:
        """All events of a span that is no training span, in order."""
        if span.phase is Phase.DONE:
            yield from self._asides_in(span.start_s, math.inf)
            reason = "completed" if self.timeline.completed else "time_limit"
            yield RunFinished(span.end_s, reason, self.summary)  # type: ignore[arg-type]
            return
        if span.start_s == 0.0 and span.phase is INIT_PHASES[0]:
            yield RunStarted(0.0, self.seed, self.plan)
        aside = self._asides_in(span.start_s, span.end_s)
        if span.phase in (Phase.HANG, Phase.DOWN):  # what brought them about comes first
            while aside and aside[0].time_s == span.start_s:
                yield aside.popleft()
        if span.phase is Phase.DOWN:
            yield self._aborted(self.timeline.incidents[span.incident - 1], span)
        expected = self._expected_s(span)
        yield PhaseStarted(span.start_s, span.phase, span.attempt, span.step, expected)
        yield from heapq.merge(self._inside(span), aside, key=lambda event: event.time_s)
        if span.cut:
            return
        yield PhaseEnded(span.end_s, span.phase, span.attempt, span.step, span.duration_s)
        yield from self._results(span)

    def _expected_s(self, span: Span) -> float:
        phases = self.plan.phases
        match span.phase:
            case Phase.VALIDATION:
                return phases.validation_s
            case Phase.CHECKPOINT:
                return phases.checkpoint_s
            case Phase.EXPORT:
                return phases.export_s
            case Phase.HANG:
                return self.spec.faults.watchdog_timeout_s
            case Phase.DOWN:
                return self.timeline.incidents[span.incident - 1].kind.downtime_median_s
            case _:
                return expected_init_s(self.plan, span.phase, span.attempt, span.step)

    def _inside(self, span: Span) -> Iterator[Event]:
        """Events between the start and the end of a span, as far as it came."""
        match span.phase:
            case Phase.GPUS:
                inside: Iterator[Event] = self._detections(span)
            case Phase.HANG:
                inside = self._hang_samples(span)
            case Phase.EXPORT:
                inside = self._shards(span)
            case _:
                return
        for event in inside:
            if span.cut and event.time_s >= span.end_s:
                return
            yield event

    def _detections(self, span: Span) -> Iterator[GpusDetected]:
        cluster, whole_s = self.spec.cluster, span.due_s - span.start_s
        nodes = cluster.nodes if cluster.gpus <= _CONDENSED_ABOVE else 1
        count = -(-cluster.gpus // nodes)
        for node in range(nodes):
            at = span.start_s + whole_s * (node + 0.5) / nodes
            first = node * count
            yield GpusDetected(at, span.attempt, node, first, min(count, cluster.gpus - first))

    def _hang_samples(self, span: Span) -> Iterator[FleetSampled]:
        for number in range(int(span.duration_s // HANG_SAMPLE_S) + 1):
            at = span.start_s + 5.0 + number * HANG_SAMPLE_S
            if at < span.end_s:
                yield FleetSampled(at, self._fleet.outside_steps(span, np.array([at])))

    def _shards(self, span: Span) -> Iterator[ShardWritten]:
        sizes, whole_s = self.plan.shard_bytes, span.due_s - span.start_s
        written, total = 0, sum(sizes)
        for number, size in enumerate(sizes, 1):
            written += size
            # The first tenth of the export gathers the shards from all ranks.
            at = min(span.start_s + whole_s * (0.1 + 0.9 * written / total), span.due_s)
            yield ShardWritten(at, number, len(sizes), shard_name(number, len(sizes)), size)

    def _results(self, span: Span) -> Iterator[Event]:
        """What a span that ran to its end has brought."""
        match span.phase:
            case Phase.ALL_REDUCE_TEST:
                yield AllReduceTested(span.end_s, span.attempt, self.plan.test_collective)
            case Phase.VALIDATION:
                yield self._validation(span)
            case Phase.CHECKPOINT:
                yield self._checkpoint(span)
            case Phase.DOWN:
                incident, launch = self.timeline.incidents[span.incident - 1], span.attempt + 1
                yield RunRestarted(
                    span.end_s,
                    launch,
                    incident.checkpoint_step,
                    incident.steps_lost,
                    span.duration_s,
                    tuple(node for made, node, _ in self.timeline.swaps if made == launch),
                    incident.skipped_batches,
                )
            case _:
                return

    def _validation(self, span: Span) -> ValidationCompleted:
        recipe, result = self.spec.recipe, self.timeline.validated_at(span.end_s)
        loss = math.nan if result.loss is None else result.loss
        return ValidationCompleted(
            time_s=span.end_s,
            step=span.step,
            epoch=-(-span.step // recipe.steps_per_epoch),
            loss=loss,
            accuracy=next_token_accuracy(loss),
            train_loss=float(self.plan.loss_curve.mean(np.array([float(span.step)]))[0]),
            best_loss=math.nan if result.best is None else result.best,
            improved=result.improved,
            duration_s=span.duration_s,
            tokens=recipe.validation_tokens,
        )

    def _checkpoint(self, span: Span) -> CheckpointSaved:
        before = self.timeline.spans[self.timeline.index_at(span.start_s) - 1]
        validated = before.phase is Phase.VALIDATION and before.end_s == span.start_s
        interval = self.spec.recipe.checkpoint_interval_steps
        reason: Literal["improved", "interval", "asked"] = "asked"
        if validated and self.timeline.validated_at(before.end_s).improved:
            reason = "improved"
        elif interval and span.step % interval == 0:
            reason = "interval"
        return CheckpointSaved(
            time_s=span.end_s,
            step=span.step,
            path=f"{self.output_path}/checkpoints/step_{span.step:07d}",
            size_bytes=self.plan.checkpoint_bytes,
            duration_s=span.duration_s,
            reason=reason,
        )

    def _aborted(self, incident: Incident, span: Span) -> RunAborted:
        return RunAborted(
            span.start_s,
            span.attempt,
            incident.number,
            incident.strike_step,
            incident.checkpoint_step,
            incident.reason,
        )

    @property
    def output_path(self) -> str:
        """Folder the run says it writes to."""
        name = self.spec.model.name.lower().replace(" ", "-").replace("/", "-")
        return f"{self.spec.output_dir}/{name}"

    @cached_property
    def summary(self) -> Summary:
        """What the run came to."""
        recipe, spans, plan = self.spec.recipe, self.timeline.spans, self.plan
        totals = dict.fromkeys(("init", "steps", "lost", "val", "ckpt", "down", "export"), 0.0)
        kept = set(self.timeline.counted())
        for span in spans:
            totals[self._account(span, kept)] += span.duration_s
        done = spans[-1].step
        run_s = self.end_s
        counted = {v.step: v for v in self.timeline.validated if v.step <= done}
        last = counted[max(counted)].loss if counted else None
        known = [(v.loss, v.step) for v in counted.values() if v.loss is not None]
        best = min(known, default=(math.nan, 0))
        final = self.steps(done, done).loss[0] if done else np.log(self.spec.model.vocab_size)
        flops = done * recipe.tokens_per_step * plan.flops_per_token
        rate = plan.peak_tflops * TERA * self.spec.cluster.gpus
        energy_j = sum(self._fleet.mean_power_w(s) * s.duration_s for s in spans)
        return Summary(
            run_time_s=run_s,
            epochs=done // recipe.steps_per_epoch,
            steps=done,
            tokens=done * recipe.tokens_per_step,
            final_loss=float(final),
            validation_loss=math.nan if last is None else last,
            best_validation_loss=best[0],
            best_validation_step=best[1],
            mean_mfu=flops / (rate * totals["steps"]) if totals["steps"] else 0.0,
            mean_util_pct=self._fleet.mean_util_pct(),
            peak_memory_gib=self._fleet.peak_memory_gib(),
            gpu_hours=run_s * self.spec.cluster.gpus / 3600,
            energy_kwh=energy_j * self.spec.cluster.gpus / 3.6e6,
            goodput=totals["steps"] / run_s,
            init_share=totals["init"] / run_s,
            validation_share=totals["val"] / run_s,
            checkpoint_share=totals["ckpt"] / run_s,
            fault_share=(totals["down"] + totals["lost"]) / run_s,
            export_share=totals["export"] / run_s,
            attempts=spans[-1].attempt,
            faults=len(self.timeline.incidents),
            saved_path=f"{self.output_path}/final",
            saved_bytes=sum(plan.shard_bytes),
            shards=len(plan.shard_bytes),
        )

    def _account(self, span: Span, kept: set[Span]) -> str:
        """Where the time of a span is booked: what a fault has cost counts as down or lost."""
        match span.phase:
            case Phase.TRAINING:
                return "steps" if span in kept else "lost"
            case Phase.VALIDATION:
                return "val"
            case Phase.CHECKPOINT:
                return "ckpt"
            case Phase.EXPORT:
                return "export"
            case Phase.HANG | Phase.DOWN:
                return "down"
            case _:
                return "init" if span.attempt == 1 else "down"
