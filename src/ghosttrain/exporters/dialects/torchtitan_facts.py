"""What torchtitan prints of a run that does not change: names, sizes, FLOPs, peaks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from ghosttrain import catalog
from ghosttrain.core.laws.memory import StageMemory
from ghosttrain.core.plan import Plan
from ghosttrain.core.spec import LOW_PRECISIONS, Model
from ghosttrain.core.units import GIB, TERA
from ghosttrain.inputs.torchtitan_models import FLAVORS

# Peak FLOP/s by a part of the device's name, in the order they are asked for (pytorch/torchtitan,
# torchtitan/tools/utils.py, get_peak_flops; GB200 as published logs of May 2026 print it).
_PEAKS = (
    ("A100", 312e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("H200", 989e12),
    ("GB200", 2.5e15),
    ("B200", 2.25e15),
)
_OTHER_PEAK = 312e12  # of cards it does not know: taken for an A100, with a warning
# Share of a card's memory that torch sees: 79.2 of the 79.65 GiB of an H100, 139.8 of 140.4 (H200);
# in pages of 2 MiB, as in the message of a full GPU (core/messages/pytorch.py).
_VISIBLE, _PAGE = 0.994, 2 * 2**20
_FIRST_STEPS = 2  # of a launch: the allocator has not reserved all yet
_FIRST_STEPS_SHARE = 0.985  # of the memory in use, as the fleet's telemetry has it
_SIZE = re.compile(r"^(?P<family>.*?)[-_ ](?P<size>\d+(?:\.\d+)?[BMTbmt].*)$")


@dataclass(frozen=True, slots=True)
class TitanFacts:
    """Of one run.

    Attributes:
        model: Name and flavor, as in `llama3 8B`.
        flops_per_token: 6 per active parameter but the embedding's, and 6 layers heads
            (qk + v head dimensions) sequence: the whole matrix of scores (torchtitan,
            get_dense_model_nparams_and_flops and get_moe_model_nparams_and_flops).
        metrics_rank: The rank that logs.
        stage: Memory of its pipeline stage.
        capacity_gib: Memory of its GPU, as torch sees it.
    """

    plan: Plan
    model: str
    folder: str
    flops_per_token: int
    peak_flops: float
    is_known_gpu: bool
    metrics_rank: int
    stage: StageMemory
    capacity_gib: float

    @classmethod
    def of(cls, plan: Plan, output_path: str) -> TitanFacts:
        """The facts of a plan's run, which writes to that folder."""
        gpu, stages = plan.spec.gpu, plan.layout.pipeline_parallel
        peak = known_peak(gpu.product_name)
        return cls(
            plan=plan,
            model=model_name(plan.spec.model),
            folder=f"{output_path}/checkpoint",
            flops_per_token=flops_per_token(plan),
            peak_flops=_OTHER_PEAK if peak is None else peak,
            is_known_gpu=peak is not None,
            metrics_rank=plan.spec.cluster.gpus // stages * (stages - 1),
            stage=plan.stage_memory[-1],
            capacity_gib=round(_VISIBLE * gpu.memory_gib * GIB / _PAGE) * _PAGE / GIB,
        )

    def step_text(
        self, step: int, loss: float, grad_norm: float, memory_gib: float, tps: float
    ) -> str:
        """What a step's line says."""
        tflops = self.flops_per_token * tps / TERA
        mfu = f"{100 * self.flops_per_token * tps / self.peak_flops:.2f}%"
        if self.plan.spec.recipe.precision in LOW_PRECISIONS:
            mfu = "N/A"
        return (
            f"step: {step:2}  loss: {loss:8.5f}  grad_norm: {grad_norm:7.4f}  "
            f"{self._memory(memory_gib)}  tps: {round(tps):,}  tflops: {tflops:,.2f}  mfu: {mfu}"
        )

    def validation_text(self, step: int, loss: float, memory_gib: float, tps: float) -> str:
        """What a validation's line says."""
        memory = self._memory(memory_gib)
        return f"validate step: {step:2}  loss: {loss:7.4f}  {memory}  tps: {round(tps):,}"

    def _memory(self, memory_gib: float) -> str:
        return f"memory: {memory_gib:5.2f}GiB({self.pct(memory_gib):.2f}%)"

    def pct(self, memory_gib: float) -> float:
        """Share of the GPU's memory, percent."""
        return 100 * memory_gib / self.capacity_gib

    def reserved_gib(self, step: int, first_step: int) -> float:
        """The most reserved up to `step` since the last line of a launch that began at another.

        That is all there is, once a launch's first steps are done.
        """
        if step <= first_step + _FIRST_STEPS:
            return _FIRST_STEPS_SHARE * self.stage.used_gib - self.stage.context_gib
        return self.stage.reserved_gib

    @property
    def timeouts_text(self) -> str:
        """What is said after step 1: collectives have less time from now on."""
        timeout = timedelta(seconds=round(self.plan.spec.faults.watchdog_timeout_s))
        return f"Synchronizing and adjusting timeout for all ProcessGroups to {timeout}"


def known_peak(device_name: str) -> float | None:
    """Peak of a device in torchtitan's table, FLOP/s, None where it has none."""
    return next((peak for name, peak in _PEAKS if name in device_name), None)


def flops_per_token(plan: Plan) -> int:
    """num_flops_per_token by torchtitan's formula."""
    model, counts = plan.spec.model, plan.params
    head_dims = 2 * model.head_dim
    if model.mla is not None:
        mla = model.mla
        head_dims = mla.qk_nope_head_dim + mla.qk_rope_head_dim + mla.v_head_dim
    matrices = counts.active - counts.input_embedding
    return 6 * matrices + 6 * model.layers * model.heads * head_dims * plan.spec.recipe.seq_len


def model_name(model: Model) -> str:
    """Name and flavor in torchtitan's tables; of others its own name, split the same way."""
    for family, flavors in FLAVORS.items():
        for flavor, key in flavors.items():
            if isinstance(key, str) and catalog.model(key).name == model.name:
                return f"{family} {flavor}"
    match = _SIZE.match(model.name)
    family, flavor = (match["family"], match["size"]) if match else (model.name, "default")
    return f"{re.sub(r'[^a-z0-9.]', '', family.lower())} {flavor}"
