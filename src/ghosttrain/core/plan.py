"""Plan: everything about a run that needs no chance; plan() refuses what cannot be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ghosttrain.core.errors import PlanError, SpecError
from ghosttrain.core.laws.architecture import (
    ParameterCounts,
    parameter_counts,
    train_flops_per_token,
)
from ghosttrain.core.laws.compute import StepTime, peak_tflops
from ghosttrain.core.laws.layout import choose_layout
from ghosttrain.core.laws.loss import LossCurve, loss_curve
from ghosttrain.core.laws.memory import StageMemory, memory_table
from ghosttrain.core.laws.network import Collective, collective
from ghosttrain.core.laws.storage import (
    CHECKPOINT_BYTES_PER_PARAM,
    read_time_s,
    shard_bytes,
    write_time_s,
)
from ghosttrain.core.spec import (
    LOW_PRECISIONS,
    Effect,
    InjectedFault,
    Layout,
    Recipe,
    RunSpec,
)
from ghosttrain.core.units import GB, GIB, TERA

MAX_GPUS = 1_048_576
MAX_STEPS = 100_000_000
MAX_FAULTS = 100_000  # injected ones
MAX_FAULT_S = 1e9  # onset and duration: 30 years, as for time_limit_s
# What severities of an effect are possible, in its unit (core/spec.py: Effect). Our choice: wide
# enough for whatever has been seen, and no run stands still by them (that would be another kind).
SEVERITIES: Mapping[Effect, tuple[float, float]] = MappingProxyType(
    {
        "none": (0.0, 0.0),
        "slow-compute": (0.0, 10.0),
        "slow-host": (0.0, 10.0),
        "slow-link": (0.0, 0.99),
        "slow-network": (0.0, 100.0),
        "late-data": (0.0, 100.0),
        "stall": (0.0, 86_400.0),
        "power-cap": (0.0, 0.9),
        "hot-air": (0.0, 40.0),
        "weak-cooling": (0.0, 5.0),
        "loss-spike": (0.0, 20.0),
        "stuck-spike": (0.0, 20.0),
        "loss-bump": (0.0, 20.0),
        "loss-nan": (0.0, 0.0),
        "divergence": (0.0, 20.0),
        "corruption": (0.0, 20.0),
        "slow-storage": (1.0, 1000.0),
        "slow-validation": (1.0, 1000.0),
        "full-storage": (0.0, 0.0),
        "corrupt-checkpoint": (0.0, 0.0),
    }
)
TEST_MESSAGE_BYTES = GIB
# A launch's warm-up as the timeline draws it: the first step takes 9 s (median of a log-normal)
# more, the next four 6 %.
FIRST_STEP_MEDIAN_S, FIRST_STEP_LOG_SD = 9.0, 0.5
FIRST_STEP_S = FIRST_STEP_MEDIAN_S * math.exp(FIRST_STEP_LOG_SD**2 / 2)  # on average
FIRST_STEPS, FIRST_STEPS_SLOWER = 4, 0.06
# Launches after a fault: the model is built before its checkpoint is read, the dataset's index
# is there already.
BUILD_MODEL_S, CACHED_DATASET_SHARE = 4.0, 0.4


@dataclass(frozen=True, slots=True)
class PhaseTimes:
    """Expected durations of the phases around training, seconds."""

    weights_s: float
    tokenizer_s: float
    dataset_s: float
    gpus_s: float
    nccl_s: float
    all_reduce_test_s: float
    validation_s: float
    checkpoint_s: float
    checkpoint_load_s: float
    export_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What the run will be.

    Attributes:
        flops_per_token: 6 (N_active - input embedding) + 12 L a d S, forward and backward.
        peak_tflops: Dense peak of the precision MFU is measured against.
        stage_memory: Memory per GPU of each pipeline stage, shape (pipeline_parallel,).
        step_time: Where the time of one undisturbed step goes.
        tokens_per_s: Tokens per step over the undisturbed step time.
        mfu: Model FLOPs utilisation at that pace, 0..1.
        test_collective: The all-reduce over all ranks that ends initialisation.
        gradient_collective: The collective that reduces one layer's gradients (ranks 1: none).
        shard_bytes: Size of each exported safetensors file.
    """

    spec: RunSpec
    params: ParameterCounts
    flops_per_token: float
    peak_tflops: float
    layout: Layout
    stage_memory: tuple[StageMemory, ...]
    step_time: StepTime
    tokens_per_s: float
    mfu: float
    test_collective: Collective
    gradient_collective: Collective
    phases: PhaseTimes
    checkpoint_bytes: int
    export_bytes: int
    shard_bytes: tuple[int, ...]
    loss_curve: LossCurve = field(compare=False, repr=False)

    @property
    def memory_used_gib(self) -> float:
        """Memory of the fullest GPU as nvidia-smi shows it, GiB."""
        return max(stage.used_gib for stage in self.stage_memory)

    @property
    def init_s(self) -> float:
        """Expected time of initialisation."""
        p = self.phases
        return p.weights_s + p.tokenizer_s + p.dataset_s + p.gpus_s + p.nccl_s + p.all_reduce_test_s

    @property
    def stops(self) -> tuple[int, int]:
        """Planned numbers of validations and of interval checkpoints."""
        recipe = self.spec.recipe
        validated = (recipe.steps_per_epoch, recipe.validation_interval_steps)
        return _stops_at(recipe, *validated), _stops_at(recipe, recipe.checkpoint_interval_steps)

    @property
    def run_s(self) -> float:
        """Expected run time without faults; every validation is taken to improve."""
        p = self.phases
        return (
            self.init_s
            + self.warm_up_s
            + self.spec.recipe.total_steps * self.step_time.total_s
            + self.stops[0] * p.validation_s
            + self.saves * p.checkpoint_s
            + p.export_s
        )

    @property
    def saves(self) -> int:
        """Expected number of checkpoints; every validation is taken to improve."""
        recipe = self.spec.recipe
        intervals = (recipe.validation_interval_steps, recipe.checkpoint_interval_steps)
        return _stops_at(recipe, recipe.steps_per_epoch, *intervals)

    @property
    def warm_up_s(self) -> float:
        """What the first steps of a launch take longer: compilation, autotuning, cold caches."""
        steps = min(FIRST_STEPS, self.spec.recipe.total_steps - 1)
        return FIRST_STEP_S + steps * FIRST_STEPS_SLOWER * self.step_time.total_s

    @property
    def relaunch_s(self) -> float:
        """Expected time from a launch after a fault to its pace: loading, and the warm-up."""
        p = self.phases
        kept = p.tokenizer_s + p.gpus_s + p.nccl_s + p.all_reduce_test_s
        return (
            kept
            + p.checkpoint_load_s
            + BUILD_MODEL_S
            + CACHED_DATASET_SHARE * p.dataset_s
            + self.warm_up_s
        )


def plan(spec: RunSpec) -> Plan:
    """Plan the run: layout, memory, step time, loss; after this nothing can fail.

    Raises:
        SpecError: If a value of the spec makes no sense by itself.
        PlanError: If the run cannot be: it does not fit, divide or add up.
    """
    refuse_nonsense(spec)
    model, recipe = spec.model, spec.recipe
    counts = parameter_counts(model)
    chosen = choose_layout(spec, counts)
    flops = train_flops_per_token(model, recipe.seq_len)
    peak = peak_tflops(spec.gpu, recipe.precision)
    tokens_per_s = recipe.tokens_per_step / chosen.step.total_s
    mfu = tokens_per_s * flops / (spec.cluster.gpus * peak * TERA)
    test = collective(
        "all_reduce",
        TEST_MESSAGE_BYTES,
        ranks=spec.cluster.gpus,
        stride=1,
        gpu=spec.gpu,
        cluster=spec.cluster,
    )
    return Plan(
        spec=spec,
        params=counts,
        flops_per_token=flops,
        peak_tflops=peak,
        layout=chosen.layout,
        stage_memory=tuple(
            stage.pressed_into(spec.gpu.memory_gib)
            for stage in memory_table(model, counts, recipe, chosen.layout, spec.stack)
        ),
        step_time=chosen.step,
        tokens_per_s=tokens_per_s,
        mfu=mfu,
        test_collective=test,
        gradient_collective=_gradient_collective(spec, counts, chosen.layout),
        phases=_phase_times(spec, counts, flops, mfu * peak, test.duration_s),
        checkpoint_bytes=CHECKPOINT_BYTES_PER_PARAM * counts.total,
        export_bytes=2 * counts.total,
        shard_bytes=shard_bytes(model, counts.total),
        loss_curve=loss_curve(
            recipe,
            spec.dataset,
            params_total=counts.total,
            params_active=counts.active,
            hidden_size=model.hidden_size,
            vocab_size=model.vocab_size,
            tokens_trained=model.tokens_trained,
        ),
    )


def validation_steps(recipe: Recipe) -> range | list[int]:
    """Steps after which the model is validated: epoch ends, and the interval's multiples."""
    ends = range(recipe.steps_per_epoch, recipe.total_steps + 1, recipe.steps_per_epoch)
    if not recipe.validation_interval_steps:
        return ends
    interval = recipe.validation_interval_steps
    return sorted({*ends, *range(interval, recipe.total_steps + 1, interval)})


def _stops_at(recipe: Recipe, *intervals: int) -> int:
    """Number of steps that are a multiple of any of the intervals, by inclusion and exclusion."""
    given = [interval for interval in intervals if interval]
    return sum(
        (-1) ** (size + 1) * (recipe.total_steps // math.lcm(*chosen))
        for size in range(1, len(given) + 1)
        for chosen in itertools.combinations(given, size)
    )


def checkpoint_steps(recipe: Recipe) -> range:
    """Steps after which the interval asks for a checkpoint."""
    interval = recipe.checkpoint_interval_steps
    return range(interval, recipe.total_steps + 1, interval) if interval else range(0)


def _gradient_collective(spec: RunSpec, counts: ParameterCounts, layout: Layout) -> Collective:
    """How one layer's fp32 gradients are reduced; tensor-parallel traffic where there is no DP."""
    ranks = layout.data_parallel * layout.context_parallel
    layer = max(counts.per_layer_dense, counts.per_layer_moe // layout.expert_parallel)
    if ranks > 1:
        return collective(
            "all_reduce" if layout.sharding == "ddp" else "reduce_scatter",
            4 * layer / layout.tensor_parallel,
            ranks=ranks,
            stride=layout.tensor_parallel,
            gpu=spec.gpu,
            cluster=spec.cluster,
        )
    tokens = layout.micro_batch_size * spec.recipe.seq_len
    return collective(
        "all_reduce",
        2 * tokens * spec.model.hidden_size,
        ranks=layout.tensor_parallel,
        stride=1,
        gpu=spec.gpu,
        cluster=spec.cluster,
    )


def _phase_times(
    spec: RunSpec, counts: ParameterCounts, flops: float, reached_tflops: float, test_s: float
) -> PhaseTimes:
    """Expected durations around training.

    Launch times as published logs show them: NCCL 2 s + 0.5 s per doubling + 2 ms a rank;
    Megatron's index of a cached dataset within seconds, more for trillions of tokens.
    """
    gpus, recipe = spec.cluster.gpus, spec.recipe
    rate = gpus * reached_tflops * TERA * 1.05  # forward alone runs a little better
    dataset_tokens = recipe.steps_per_epoch * recipe.tokens_per_step
    if recipe.continued_loss:
        weights = 6 + read_time_s(2 * counts.total, spec.cluster)
    else:
        weights = 8 + counts.total / gpus / 2.5e8 + 1.5e-9 * counts.total**0.95
    return PhaseTimes(
        weights_s=weights,
        tokenizer_s=0.4 + spec.model.vocab_size / 1.3e5,
        dataset_s=4 + 1.6 * math.log10(max(dataset_tokens, 1e6) / 1e6) ** 1.5,
        gpus_s=1.5 + 0.35 * math.log2(gpus + 1),
        nccl_s=2 + 0.5 * math.log2(gpus) + 2e-3 * gpus,
        all_reduce_test_s=1 + 25 * test_s,
        validation_s=2 + recipe.validation_tokens * flops / 3 / rate,
        checkpoint_s=write_time_s(CHECKPOINT_BYTES_PER_PARAM * counts.total, spec.cluster),
        checkpoint_load_s=read_time_s(CHECKPOINT_BYTES_PER_PARAM * counts.total, spec.cluster),
        export_s=5 + 2 * counts.total / (min(4, spec.cluster.nodes) * 2.5 * GB),
    )


def refuse_nonsense(spec: RunSpec) -> None:
    """Refuse values that make no sense by themselves.

    Raises:
        SpecError: Naming the field, its value and what is possible.
        PlanError: Where hardware and request do not go together.
    """
    recipe, cluster = spec.recipe, spec.cluster
    ranges = (
        ("gpus", cluster.gpus, 1, MAX_GPUS),
        ("seq_len", recipe.seq_len, 8, 16_777_216),
        ("global_batch_size", recipe.global_batch_size, 1, 10_000_000),
        ("epochs", recipe.epochs, 1, 1_000_000),
        ("steps", recipe.total_steps, 1, MAX_STEPS),
        ("warmup_steps", recipe.warmup_steps, 0, recipe.total_steps),
        ("validation_tokens", recipe.validation_tokens, 1, 10**12),
        ("validation_interval_steps", recipe.validation_interval_steps, 0, MAX_STEPS),
        ("checkpoint_interval_steps", recipe.checkpoint_interval_steps, 0, MAX_STEPS),
        ("peak_learning_rate", recipe.peak_learning_rate, 1e-9, 1.0),
        ("min_learning_rate_ratio", recipe.min_learning_rate_ratio, 0.0, 1.0),
        ("decay_frac", recipe.decay_frac, 0.001, 1.0),
        ("grad_clip", recipe.grad_clip, 1e-6, 1e6),
        ("continued_loss", recipe.continued_loss, 0.0, 20.0),
        ("time_limit_s", spec.time_limit_s, 60.0, 1e9),
    )
    for name, value, low, high in ranges:
        if not low <= value <= high:
            raise SpecError(f"{name} is {value:,}; it must be from {low:,} to {high:,}")
    _refuse_hardware(spec)
    _refuse_faults(spec)
    if cluster.gpus > cluster.gpus_per_node and cluster.gpus % cluster.gpus_per_node:
        full = cluster.gpus - cluster.gpus % cluster.gpus_per_node
        raise PlanError(
            f"{cluster.gpus:,} GPUs do not fill nodes of {cluster.gpus_per_node}: "
            f"take {full:,} or {full + cluster.gpus_per_node:,}"
        )
    epoch = recipe.steps_per_epoch * recipe.tokens_per_step
    if epoch > 1.001 * spec.dataset.tokens:
        raise PlanError(
            f"an epoch asks for {epoch:.3g} tokens, {spec.dataset.name} has "
            f"{spec.dataset.tokens:.3g}: take more epochs of fewer steps, or a larger dataset"
        )
    if spec.model.learned_positions and recipe.seq_len > spec.model.learned_positions:
        raise PlanError(
            f"{spec.model.name} has {spec.model.learned_positions:,} learned positions, "
            f"seq_len is {recipe.seq_len:,}: shorten the sequence"
        )


def _refuse_hardware(spec: RunSpec) -> None:
    gpu, precision = spec.gpu, spec.recipe.precision
    if gpu.vendor != "NVIDIA":
        raise PlanError(f"{gpu.product_name} is not rehearsed yet: choose an NVIDIA GPU")
    if precision in LOW_PRECISIONS and not gpu.fp8_tflops:
        raise PlanError(f"{gpu.product_name} has no FP8 tensor cores: use --precision bf16")
    if precision in ("mxfp8", "nvfp4") and gpu.arch != "Blackwell":
        raise PlanError(
            f"{gpu.product_name} has no {precision.upper()} tensor cores: use --precision fp8"
        )
    if precision == "bf16" and not gpu.bf16_tflops:
        raise PlanError(f"{gpu.product_name} has no BF16 tensor cores: use --precision fp16")


def _refuse_faults(spec: RunSpec) -> None:
    timeout_s, injected = spec.faults.watchdog_timeout_s, spec.faults.injected
    if not 1.0 <= timeout_s <= 1e6:
        raise SpecError(f"watchdog_timeout_s is {timeout_s:,}; it must be from 1 to 1,000,000")
    if len(injected) > MAX_FAULTS:
        raise SpecError(f"{len(injected):,} faults are asked for: {MAX_FAULTS:,} is the most")
    for fault in injected:
        _refuse_fault(fault, spec.cluster.gpus)


def _refuse_fault(fault: InjectedFault, gpus: int) -> None:
    name, severity, duration_s = fault.kind.name, fault.severity, fault.duration_s
    if not 0.0 <= fault.at_s <= MAX_FAULT_S:
        raise SpecError(f"{name} at {fault.at_s:,} s: give a moment from 0 to {MAX_FAULT_S:,.0f} s")
    if not 0 <= fault.at_step <= MAX_STEPS:
        raise SpecError(f"{name} at step {fault.at_step:,}: give a step from 1 to {MAX_STEPS:,}")
    if fault.gpu is not None and not 0 <= fault.gpu < gpus:
        raise SpecError(f"{name} on GPU {fault.gpu:,}: the run has GPUs 0 to {gpus - 1:,}")
    if duration_s is not None and not 0.0 <= duration_s <= MAX_FAULT_S:
        raise SpecError(
            f"{name} lasts {duration_s:,} s: give a duration from 0 to {MAX_FAULT_S:,.0f} s"
        )
    low, high = SEVERITIES[fault.kind.effect]
    if severity is not None and not low <= severity <= high:
        possible = f"give one from {low:,} to {high:,}" if high else "it has none to choose"
        raise SpecError(f"{name} of severity {severity:,}: {possible}")
