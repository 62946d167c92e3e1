"""torchtitan's log: values by its definitions, lines in its order, published logs met."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ghosttrain import catalog
from ghosttrain.core.events import StepsCompleted, TrainingStarted, ValidationCompleted
from ghosttrain.core.plan import plan
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.spec import Mla, Model, Moe, ParallelRequest, Recipe, RunSpec
from ghosttrain.exporters.dialects.torchtitan_facts import flops_per_token, known_peak, model_name
from tests.exporters.dialects.cases import (
    LAYOUTS,
    calm,
    events_of,
    faulty,
    in_precision,
    lines_of,
    run_of,
)
from tests.exporters.dialects.grammar.torchtitan import TITAN_STEP, TITAN_VALIDATION


def moment(run: Run, stamp: str) -> float:
    """Run time of `2026-01-01 00:00:45,003`."""
    date = datetime.strptime(stamp + "000", "%Y-%m-%d %H:%M:%S,%f").replace(tzinfo=UTC)
    return date.timestamp() - run.spec.start_unix_s


def expected(run: Run, every: int, begun: list[float]) -> Iterator[tuple[str, int, float, float]]:
    """(kind, step, loss, tps) of each line, by a loop over single steps.

    `begun` are the moments at which the launches' metrics were set up.
    """
    recipe, gpus = run.spec.recipe, run.spec.cluster.gpus
    moments, last_s, tokens = iter(begun), 0.0, 0
    for event in events_of(run):
        if isinstance(event, TrainingStarted):
            last_s, tokens = next(moments), 0
        elif isinstance(event, ValidationCompleted):
            tokens += event.tokens
            yield "validate", event.step, event.loss, tokens / (event.time_s - last_s) / gpus
            last_s, tokens = event.time_s, 0
        elif isinstance(event, StepsCompleted):
            for step, end_s, loss in zip(event.step, event.end_s, event.loss, strict=True):
                tokens += recipe.tokens_per_step
                if step == 1 or step % every == 0:
                    yield "step", int(step), float(loss), tokens / float(end_s - last_s) / gpus
                    last_s, tokens = float(end_s), 0


@pytest.mark.parametrize("every", [1, 10, 48])
@pytest.mark.parametrize("name", ["dense", "pipeline", "gpu-fault"])
def test_loss_and_throughput_are_the_runs(name, every):
    run = run_of(name)
    lines = lines_of(run, "torchtitan", every)
    begun = [moment(run, line[8:31]) for line in lines if "CUDA capacity" in line]
    found = [
        m for line in lines if (m := TITAN_STEP.fullmatch(line) or TITAN_VALIDATION.fullmatch(line))
    ]
    wanted = list(expected(run, every, begun))
    assert len(found) == len(wanted) >= 10
    for m, (kind, step, loss, tps) in zip(found, wanted, strict=True):
        assert int(m["step"]) == step
        assert m["loss"] == (f"{loss:.5f}" if kind == "step" else f"{loss:.4f}")
        # The start of a launch's first interval is read off its stamp: to the millisecond.
        assert int(m["tps"].replace(",", "")) == pytest.approx(tps, rel=3e-4, abs=0.51)


@pytest.mark.parametrize("name", [n for n, made in LAYOUTS.items() if "fp8" not in made.precision])
def test_tflops_and_mfu_follow_from_tps(name):
    run = calm(name)
    peak = known_peak(run.spec.gpu.product_name) or 312e12
    for line in lines_of(run, "torchtitan"):
        if m := TITAN_STEP.fullmatch(line):
            tps, tflops = int(m["tps"].replace(",", "")), float(m["tflops"].replace(",", ""))
            per_tps = flops_per_token(run.plan) / 1e12
            assert tflops == pytest.approx(tps * per_tps, abs=0.5 * per_tps + 0.006)
            assert float(m["mfu"][:-1]) == pytest.approx(100 * tflops * 1e12 / peak, abs=0.01)


def test_stamps_and_grad_norms_are_the_steps():
    run = calm("dense")
    steps: dict[int, tuple[float, float]] = {}
    for event in events_of(run):
        if isinstance(event, StepsCompleted):
            rows = zip(event.step.tolist(), event.end_s, event.grad_norm, strict=True)
            steps |= {step: (float(end_s), float(norm)) for step, end_s, norm in rows}
    found = [m for line in lines_of(run, "torchtitan") if (m := TITAN_STEP.fullmatch(line))]
    assert len(found) == 13
    for m in found:
        end_s, norm = steps[int(m["step"])]
        assert 0 <= end_s - moment(run, m["at"]) < 0.001 + 1e-6
        assert m["gn"] == f"{norm:.4f}"


def test_stamps_never_go_back():
    for run in (
        calm("dense"),
        calm("experts"),
        faulty("gpu-fault"),
        faulty("checkpoint-corrupted"),
    ):
        stamps = [line[8:31] for line in lines_of(run, "torchtitan") if line.startswith("[titan]")]
        assert stamps == sorted(stamps)


def test_memory_is_what_the_allocator_holds_of_what_torch_sees():
    run = calm("dense")
    stage = run.plan.stage_memory[-1]
    found = [m for line in lines_of(run, "torchtitan") if (m := TITAN_STEP.fullmatch(line))]
    assert float(found[-1]["gib"]) == pytest.approx(stage.reserved_gib, abs=0.005)
    assert float(found[0]["gib"]) < float(found[-1]["gib"])
    # 79.2 GiB of an H100, as torchtitan's own logs have it.
    assert float(found[-1]["pct"]) == pytest.approx(100 * stage.reserved_gib / 79.18, abs=0.05)


@pytest.mark.parametrize(("precision", "has_mfu"), [("bf16", True), ("fp16", True), ("fp8", False)])
def test_mfu_is_not_quoted_in_eight_bits(precision, has_mfu):
    run = calm("dense") if precision == "bf16" else in_precision(precision)
    lines = lines_of(run, "torchtitan")
    shown = {m["mfu"] for line in lines if (m := TITAN_STEP.fullmatch(line))}
    assert ("N/A" not in shown) is has_mfu
    assert any("Float8" in line for line in lines) is not has_mfu


def test_a_loss_that_is_no_number_is_shown_as_such():
    lost = [line for line in lines_of(faulty("loss-nan"), "torchtitan") if "nan" in line]
    assert lost
    assert all("  loss:      nan  grad_norm:     nan  " in line for line in lost)


def texts(lines: list[str]) -> list[str]:
    """Of torchtitan's lines what follows the level, numbers as 9."""
    kept = [line.partition(" - root - ")[2] for line in lines if line.startswith("[titan]")]
    return [re.sub(r"[\d,.]*\d", "9", text) for text in kept]


def test_lines_stand_in_torchtitans_order():
    said = texts(lines_of(calm("dense"), "torchtitan", 20))
    assert said[:21] == [
        "INFO - torchtitan version: 9 (9 means __version__ is not defined correctly).",
        "WARNING - ENV[TORCH_NCCL_ASYNC_ERROR_HANDLING] = 9 will be overridden to 9 based on job"
        " config",
        "INFO - Building device mesh with parallelism: pp=9, dp_replicate=9, dp_shard=9, cp=9,"
        " tp=9, ep=9",
        "INFO - Successfully created meshes with active dimensions: ['batch', 'loss', 'fsdp']",
        "INFO - [GC] Initial GC collection took 9 seconds",
        "INFO - Loading tokenizer from tokenizer.json",
        "INFO - Preparing fineweb-edu dataset from /data/fineweb-edu",
        "INFO - Building llama9 9B",
        "INFO - CUDA capacity: NVIDIA H9 9GB HBM9 with 9GiB memory",
        "INFO - Model llama9 9B size: 9 total parameters",
        "INFO - Compiling the loss function with torch.compile",
        "INFO - Compiling each TransformerBlock with torch.compile",
        "INFO - Applied FSDP to the model",
        "INFO - Peak FLOPS used for computing MFU: 9e+9",
        "INFO - CUDA memory usage for model: 9GiB(9%)",
        "INFO - Checkpointing active. Checkpoints will be loaded from and saved to"
        " outputs/llama-9-9b/checkpoint",
        "INFO - Mixed precision training is handled by fully_shard",
        "INFO - Trainer is initialized with local batch size 9, global batch size 9, gradient"
        " accumulation steps 9, sequence length 9, total steps 9 (warmup 9)",
        "INFO - Training starts at step 9",
        "INFO - step:  9  loss: 9  grad_norm: 9  memory: 9GiB(9%)  tps: 9  tflops: 9  mfu: 9%",
        "INFO - Synchronizing and adjusting timeout for all ProcessGroups to 9:9:9",
    ]
    assert said[-6:] == [
        "INFO - Saving the checkpoint (or staging if async is enabled).",
        "INFO - Saving a full checkpoint at last step, step 9.",
        "INFO - [GC] GC collection invoked by checkpointer. took 9 seconds",
        "INFO - Sleeping 9 seconds for other ranks to complete",
        "INFO - Training completed",
        "INFO - Process group destroyed",
    ]


def test_a_launch_from_a_checkpoint_says_so():
    run = faulty("gpu-fault")
    lines = lines_of(run, "torchtitan")
    restart = next(e for e in events_of(run) if isinstance(e, TrainingStarted) and e.attempt == 2)
    second = [n for n, line in enumerate(lines) if "torchtitan version" in line][1]
    starts = next(n for n in range(second, len(lines)) if "Training starts" in lines[n])
    assert lines[starts].endswith(f"Training starts at step {restart.step + 1}")
    assert moment(run, lines[starts][8:31]) == pytest.approx(restart.time_s, abs=0.002)
    loading, _, finished = lines[starts - 3 : starts]
    assert loading.endswith(
        f"Loading the checkpoint from outputs/llama-3-8b/checkpoint/step-{restart.step}."
    )
    took_s = float(finished.rpartition(" in ")[2].partition(" ")[0])
    assert moment(run, finished[8:31]) - moment(run, loading[8:31]) == pytest.approx(
        took_s, abs=0.01
    )
    assert any(TITAN_STEP.fullmatch(line) for line in lines[starts:])
    assert not any("ProcessGroups" in line for line in lines[starts:])


def test_with_pipelines_another_rank_logs_and_does_not_sleep():
    said = texts(lines_of(calm("pipeline"), "torchtitan"))
    assert not any("Sleeping" in text for text in said)
    assert said[-2:] == ["INFO - Training completed", "INFO - Process group destroyed"]


# What published logs print: llama3 debugmodel on 8 GPUs, November 2025; deepseek_v3 debugmodel on
# 4 GB200, May 2026 (torchtitan/experiments, CUDA-graphable MoE).
LLAMA_DEBUG = Model("debug", 6, 256, 16, 16, 16, 768, 2048, 2048, tokenizer="llama-3")
DEEPSEEK_DEBUG = Model(
    "debug",
    6,
    256,
    16,
    16,
    192,
    1024,
    2048,
    2048,
    mla=Mla(0, 512, 128, 64, 128),
    moe=Moe(8, 3, 256, shared_ffn_hidden_size=512, first_dense_layers=1),
    tokenizer="llama-3",
)


def published(model: Model, gpu: str, gpus: int, batch: int, parallel: ParallelRequest) -> RunSpec:
    card = catalog.gpu(gpu)
    return RunSpec(
        model,
        card,
        catalog.cluster(card, gpus),
        catalog.dataset("fineweb-edu"),
        catalog.tokenizer("llama-3"),
        Recipe(2048, batch, 1, 20, warmup_steps=2),
        parallel,
    )


@pytest.mark.parametrize(
    ("model", "tps", "tflops"),
    [(LLAMA_DEBUG, 301_092, 21.55), (DEEPSEEK_DEBUG, 31_371, 17.03)],
    ids=["dense", "experts with latent attention"],
)
def test_flops_are_those_of_published_lines(model, tps, tflops):
    spec = published(model, "h200-sxm", 8, 64, ParallelRequest())
    assert tps * flops_per_token(plan(spec)) / 1e12 == pytest.approx(tflops, abs=0.006)


def test_a_launch_says_what_a_published_log_says():
    parallel = ParallelRequest(tensor_parallel=2, expert_parallel=2, sharding="fsdp")
    spec = published(DEEPSEEK_DEBUG, "gb200", 4, 16, parallel)
    text = "\n".join(lines_of(simulate(spec, 1), "torchtitan"))
    for line in (
        "pp=1, dp_replicate=1, dp_shard=2, cp=1, tp=2, ep=2",
        "active dimensions: ['batch', 'loss', 'fsdp', 'tp', 'ep', 'efsdp']",
        "CUDA capacity: NVIDIA GB200 with 18",
        "Total parameter count: dense 23,173,376, sparse 9,840,640, active 28,098,816",
        "size: 33,014,016 total parameters",
        "Peak FLOPS used for computing MFU: 2.500e+15",
        "sequence length 2048, total steps 20 (warmup 2)",
    ):
        assert line in text


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA B200", 2.25e15),
        ("NVIDIA GB200", 2.5e15),
        ("NVIDIA L40S", None),  # its row asks for "l40s"
        ("NVIDIA H800", None),
    ],
)
def test_peaks_are_torchtitans(name, peak):
    assert known_peak(name) == peak


def test_models_are_named_as_torchtitan_names_them():
    named = {key: model_name(catalog.model(key)) for key in ("llama-3.1-8b", "qwen3-0.6b")}
    assert named == {"llama-3.1-8b": "llama3 8B", "qwen3-0.6b": "qwen3 0.6B"}
    assert model_name(catalog.model("deepseek-v3-671b")) == "deepseek_v3 671B"
    assert model_name(replace(LLAMA_DEBUG, name="Nameless")) == "nameless default"


def test_the_periodic_collection_comes_before_its_step():
    lines = lines_of(calm("dense"), "torchtitan")
    at = [n for n, line in enumerate(lines) if "periodic GC" in line]
    assert len(at) == 2  # at steps 50 and 100
    assert [lines[n + 1].partition(" step: ")[2][:3] for n in at] == ["50 ", "100"]
