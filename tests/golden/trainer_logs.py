"""Golden logs: what training programs would have printed of runs that a person has read.

Floats with all their digits are shortened, so that another build of NumPy, whose last bits may
differ, tells the same.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from ghosttrain import catalog
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.spec import Faults, InjectedFault, ParallelRequest, Recipe, RunSpec
from tests.exporters.dialects.cases import calm, faulty, out_of_time, text_of

FOLDER = Path(__file__).with_name("dialects")
RANK_ZERO, WHOLE_JOB = ("torchtitan", "hf", "nanogpt"), ("megatron", "deepspeed", "nemo")
_LONG = re.compile(r"\d+\.\d{9,}(?:e-\d+)?")


def golden_texts() -> dict[str, str]:
    """Every golden log by the name of its file."""
    crash, spoilt = faulty("gpu-fault"), faulty("loss-nan")
    texts = {f"{name}-gpu-fault": text_of(crash, name, 50) for name in RANK_ZERO}
    texts["torchtitan-experts"] = text_of(calm("latent"), "torchtitan", 50)
    texts["torchtitan-pipeline"] = text_of(calm("pipeline"), "torchtitan", 50)
    texts["torchtitan-nan"] = text_of(spoilt, "torchtitan", 50)
    texts["hf-nan"] = text_of(spoilt, "hf", 50)
    texts["torchtitan-out-of-time"] = text_of(out_of_time(), "torchtitan", 50)
    texts |= {name: text_of(small_run(), name, 10) for name in WHOLE_JOB}
    return {
        name: _LONG.sub(lambda found: f"{float(found[0]):.10g}", text)
        for name, text in texts.items()
    }


@cache
def small_run() -> Run:
    """One node, 60 steps, saved every 20, validated every 40; a crash in step 45."""
    model, gpu = catalog.model("llama-3.2-1b"), catalog.gpu("h100-sxm")
    crash = InjectedFault(catalog.fault_kind("gpu-fault"), gpu=3, at_step=45)
    return simulate(
        RunSpec(
            model=model,
            gpu=gpu,
            cluster=catalog.cluster(gpu, 8),
            dataset=catalog.dataset("fineweb-edu"),
            tokenizer=catalog.tokenizer(model.tokenizer),
            recipe=Recipe(
                seq_len=2048,
                global_batch_size=64,
                epochs=1,
                steps_per_epoch=60,
                warmup_steps=10,
                validation_interval_steps=40,
                checkpoint_interval_steps=20,
            ),
            parallel=ParallelRequest(sharding="zero1"),
            faults=Faults(injected=(crash,)),
        ),
        7,
    )


def golden_file(name: str) -> Path:
    """Where a golden log is kept."""
    return FOLDER / f"{name}.txt"


def write_all() -> None:
    """Write every file, and take away those that are gone."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.txt"):
        path.unlink()
    for name, text in golden_texts().items():
        golden_file(name).write_text(text, encoding="utf-8", newline="\n")
