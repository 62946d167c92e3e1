"""The formats there are: a line for each, and what makes it, imported when it is asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ghosttrain.core.errors import RequestError, SpecError, nearest
from ghosttrain.exporters.looking_back import look_back
from ghosttrain.exporters.writing import Asked, Exporter, LogWriter, OneFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True, slots=True)
class Format:
    """A format of ours.

    Attributes:
        name: What users ask for.
        about: What it is, for `ghosttrain list formats`.
        made_by: "module:function" in this package. Of a format with a `file` the function takes
            what is Asked and returns a LogWriter; of others an Exporter.
        file: Name of its one file; without one the exporter names its files.
        extra: The extra of ours that brings the packages it needs.
        is_log: Whether it is lines as time passes, which `run --format` prints too.
        is_checked: Whether `ghosttrain check` reads it.
        looks_back: How many lines ahead of a window its first line depends on: one where lines
            tell of all steps since the line before.
    """

    name: str
    about: str
    made_by: str
    file: str = ""
    extra: str = ""
    is_log: bool = False
    is_checked: bool = False
    looks_back: int = 0

    def exporter(self, asked: Asked) -> Exporter:
        """What makes the files of this format.

        Raises:
            RequestError: If it needs a package that is not installed.
        """
        if self.file:
            return OneFile(self.file, self.log(asked))
        made: Exporter = self._maker()(asked)
        return made

    def log(self, asked: Asked) -> LogWriter:
        """What makes its one stream of bytes.

        Raises:
            RequestError: If it needs a package that is not installed.
        """
        assert self.file, f"{self.name} has several files"
        made: LogWriter = self._maker()(asked)
        if self.looks_back and asked.start_s > 0.0:
            look_back(made, asked, self.looks_back)
        return made

    def _maker(self) -> Callable[[Asked], Any]:
        module, _, function = self.made_by.partition(":")
        try:
            made_in = importlib.import_module(f"ghosttrain.exporters.{module}")
        except ImportError as error:
            if not self.extra or (error.name or "").startswith("ghosttrain"):
                raise
            raise RequestError(
                f"--format {self.name} needs the package {error.name}:"
                f" pip install 'ghosttrain[{self.extra}]'"
            ) from None
        maker: Callable[[Asked], Any] = getattr(made_in, function)
        return maker


# In the order in which `list formats` shows them.
FORMATS = (
    Format(
        "jsonl",
        "the typed events, one row a line",
        "jsonl:jsonl_log",
        file="events.jsonl",
        is_log=True,
        is_checked=True,
    ),
    Format(
        "megatron",
        "the output of Megatron-LM (core_v0.17.0)",
        "dialects.megatron:megatron_log",
        file="megatron.log",
        is_log=True,
        looks_back=1,
    ),
    Format(
        "deepspeed",
        "the output of Megatron-DeepSpeed (DeepSpeed 0.16.9)",
        "dialects.deepspeed:deepspeed_log",
        file="deepspeed.log",
        is_log=True,
        looks_back=1,
    ),
    Format(
        "nemo",
        "the output of NeMo 2 (2.4.0)",
        "dialects.nemo:nemo_log",
        file="nemo.log",
        is_log=True,
        looks_back=1,
    ),
    Format(
        "labels",
        "what was wrong, when, where: one JSON row an incident",
        "labels:label_file",
        file="labels.jsonl",
    ),
    Format(
        "labels-parquet",
        "the same as a Parquet table",
        "label_table:label_table_file",
        file="labels.parquet",
        extra="parquet",
    ),
    Format(
        "parquet",
        "tables: events, steps, telemetry, labels; folders of part files",
        "parquet:parquet_exporter",
        extra="parquet",
    ),
    Format(
        "torchtitan",
        "the log of torchtitan 0.2.2",
        "dialects.torchtitan:torchtitan_log",
        file="torchtitan.log",
        is_log=True,
        looks_back=1,
    ),
    Format(
        "hf",
        "the output of Hugging Face's Trainer, transformers 5",
        "dialects.hf:hf_log",
        file="hf.log",
        is_log=True,
        looks_back=1,
    ),
    Format(
        "hf-v4",
        "the same of transformers 4.57",
        "dialects.hf:hf_v4_log",
        file="hf-v4.log",
        is_log=True,
        looks_back=1,
    ),
    Format(
        "trainer-state",
        "trainer_state.json of that Trainer",
        "dialects.trainer_state:trainer_state_file",
        file="trainer_state.json",
    ),
    Format(
        "nanogpt",
        "the log of nanoGPT's train.py",
        "dialects.nanogpt:nanogpt_log",
        file="nanogpt.log",
        is_log=True,
        looks_back=120,  # mfu keeps 0.9 of itself from line to line: 3e-6 is left
    ),
    Format(
        "nccl",
        "NCCL_DEBUG=INFO of each launch",
        "machine.nccl:nccl_log",
        file="nccl.log",
        is_log=True,
    ),
    Format(
        "all-reduce-perf",
        "nccl-tests' table of the cluster",
        "machine.all_reduce_perf:all_reduce_perf_file",
        file="all_reduce_perf.txt",
    ),
    Format(
        "nvidia-smi",
        "nvidia-smi --query-gpu CSV of each host",
        "machine.nvidia_smi:query_logs",
    ),
    Format("nvidia-smi-dmon", "nvidia-smi dmon of each host", "machine.nvidia_smi:dmon_logs"),
    Format("nvidia-smi-table", "nvidia-smi of each host", "machine.smi_table:tables"),
    Format("kernel", "each host's kernel log: Xid, NIC, memory", "machine.kernel:kernel_logs"),
    Format("stderr", "what ranks wrote to stderr", "machine.stderr:stderr_logs"),
    Format("slurm", "output of each launch's job", "machine.slurm:slurm_output"),
    Format(
        "tensorboard",
        "TensorBoard event files, tags as torchtitan (fsdp) or Megatron names them",
        "tensorboard:suiting_events",
        extra="tensorboard",
    ),
    Format(
        "tensorboard-megatron",
        "the same with Megatron-LM's tags",
        "tensorboard:megatron_events",
        extra="tensorboard",
    ),
    Format(
        "tensorboard-torchtitan",
        "with torchtitan's",
        "tensorboard:torchtitan_events",
        extra="tensorboard",
    ),
    Format(
        "tensorboard-hf",
        "with those of Hugging Face's Trainer",
        "tensorboard:hf_events",
        extra="tensorboard",
    ),
    Format(
        "tensorboard-nemo",
        "with NeMo's",
        "tensorboard:nemo_events",
        extra="tensorboard",
    ),
    Format(
        "wandb",
        "offline runs of Weights & Biases, one a launch, for wandb sync",
        "wandb_offline:offline_runs",
        extra="wandb",
    ),
    Format(
        "mlflow",
        "a file store of MLflow, one run a launch, metrics as the Trainer names them",
        "mlflow_store:file_store",
    ),
    Format(
        "openmetrics",
        "history for Prometheus, a file a day, for promtool tsdb create-blocks-from",
        "openmetrics:backfill",
        extra="serve",
    ),
)
EXPORTERS = {one.name: one for one in FORMATS}
LOGS = {one.name: one for one in FORMATS if one.is_log}


def formats_of(text: str) -> list[Format]:
    """The formats that `text` names by commas, each once.

    Raises:
        SpecError: If there is none, or one is unknown.
    """
    names = list(dict.fromkeys(name for word in text.split(",") if (name := word.strip().lower())))
    for name in names:
        if name not in EXPORTERS:
            raise SpecError(f"unknown format {name!r}: {_near(name, EXPORTERS)}")
    if not names:
        raise SpecError(f"--format {text!r} names none: there are {', '.join(EXPORTERS)}")
    if "parquet" in names and "labels-parquet" in names:  # it is one of the tables
        names.remove("labels-parquet")
    return [EXPORTERS[name] for name in names]


def log_named(text: str) -> str:
    """The name of the format of `run` that `text` means.

    Raises:
        SpecError: If there is none such.
    """
    name = text.strip().lower()
    known = ["classic", *LOGS]
    if name in known:
        return name
    if name in EXPORTERS:
        raise SpecError(
            f"format {name!r} is made of a whole run: `ghosttrain export --format {name} --to DIR`;"
            f" run has {', '.join(known)}"
        )
    raise SpecError(f"unknown format {text!r}: {_near(name, known)}")


def _near(name: str, known: Iterable[str]) -> str:
    near = nearest(name[:50], known)
    return (f"did you mean {near}? " if near else "") + f"there are {', '.join(known)}"
