"""Golden logs: a small run with a crash and a relaunch, in each dialect, for a person to read.

Floats with all their digits are shortened, so that another build of NumPy, whose last bits may
differ, tells the same.
"""

from __future__ import annotations

import re
from pathlib import Path

from ghosttrain import catalog
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.spec import Faults, InjectedFault, ParallelRequest, Recipe, RunSpec
from ghosttrain.exporters.formats import LOGS
from ghosttrain.exporters.writing import Asked

FOLDER = Path(__file__).with_name("dialects")
NAMES = ("megatron", "deepspeed", "nemo")
SEED = 7
LOG_INTERVAL = 10
_LONG = re.compile(r"\d+\.\d{9,}(?:e-\d+)?")


def golden_run() -> Run:
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
        SEED,
    )


def golden_file(name: str) -> Path:
    """Where the log of a dialect stands."""
    return FOLDER / f"{name}.txt"


def log_text(name: str, run: Run) -> str:
    """The log in a dialect, long floats shortened to ten digits."""
    log = LOGS[name].log(Asked(run, LOG_INTERVAL))
    events = run.events(0.0, float("inf"), sample_every=LOG_INTERVAL)
    text = b"".join((*map(log.accept, events), log.close())).decode()
    return _LONG.sub(lambda found: f"{float(found[0]):.10g}", text)


def write_all() -> None:
    """Write the files anew."""
    FOLDER.mkdir(exist_ok=True)
    run = golden_run()
    for name in NAMES:
        golden_file(name).write_text(log_text(name, run), encoding="utf-8")
