"""The start-up of NeMo 2, line by line in its order.

Sources: nemo_toolkit 2.4.0, nemo/lightning/nemo_logger.py, resume.py, megatron_init.py,
megatron_parallel.py, io/pl.py, pytorch/strategies/megatron_strategy.py, utils/formatters/base.py;
lightning 2.5.5, pytorch/trainer/setup.py, pytorch/utilities/model_summary; megatron-core 0.15
(core/utils.py, num_microbatches_calculator.py, datasets). Of what all ranks log alike rank 0's
lines are shown; lists of parameters by bucket and Python's warnings are left out.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.messages.writer import drawn
from ghosttrain.core.plan import Plan
from ghosttrain.exporters.dialects import megatron_arguments as megatron
from ghosttrain.exporters.dialects.dates import Dates
from ghosttrain.exporters.dialects.job_log import Rows
from ghosttrain.exporters.dialects.launches import Moments
from ghosttrain.exporters.dialects.megatron_arguments import Habits
from ghosttrain.exporters.dialects.megatron_model import (
    layers_of_stage,
    padded_vocab,
    rank_parameters,
)
from ghosttrain.exporters.dialects.megatron_words import samples_wanted

_OWN = "nemo_logging"  # NeMo's own logger stands in for the module that speaks
_OWN_INFO, _OWN_WARNING = f"{_OWN}:393", f"{_OWN}:405"
_CORE = "utils:302"  # megatron-core's, on one rank
_RULE = "-" * 100
_COUNT_WIDTH = 10
_UNITS = (" ", "K", "M", "B", "T")
_ABBREVIATED = 100  # numbers below show a decimal
_MODULES_PER_LAYER, _MODULES_BESIDE = 13, 7  # of a Llama as megatron-core builds it


class StartUp:
    """Writes the start-ups of one run.

    Args:
        plan: The run's.
        seed: The run's: of what the run does not say.
        dates: Of the run.
        habits: How NeMo is asked to work.
        output_path: Where the experiment is logged.
    """

    def __init__(
        self, plan: Plan, seed: int, dates: Dates, habits: Habits, output_path: str
    ) -> None:
        self._plan, self._seed, self._dates = plan, seed, dates
        self._habits, self._output_path = habits, output_path

    def info(self, time_s: float, text: str, site: str = _OWN_INFO) -> str:
        """A line of NeMo's logger."""
        return f"[NeMo I {self._dates.second(time_s)} {site}] {text}"

    def warning(self, time_s: float, text: str, site: str = _OWN_WARNING) -> str:
        """The same of another level."""
        return f"[NeMo W {self._dates.second(time_s)} {site}] {text}"

    def rows(self, launch: Moments) -> Rows:
        """(run time, lines) of a launch: the data come before the model here."""
        data_s = launch.network_s + (launch.training_s - launch.model_s)
        built_s = data_s + (launch.built_s - launch.network_s)
        begins, ends = self._weights(launch, built_s)
        parts = (
            (launch.program_s, self._trainer(launch)),
            (launch.tokenizer_s, self._groups(launch.tokenizer_s)),
            (launch.network_s, self._network(launch.network_s)),
            (data_s, self._data(data_s)),
            (built_s, [*self._model(built_s), *begins]),
            (launch.training_s, [*ends, *self._machine(launch.training_s)]),
        )
        return [(time_s, "\n".join(lines)) for time_s, lines in parts]

    def _trainer(self, launch: Moments) -> list[str]:
        now = launch.program_s
        folder = self._habits.folder
        lines = [
            "GPU available: True (cuda), used: True",
            "TPU available: False, using: 0 TPU cores",
            "HPU available: False, using: 0 HPUs",
            self.warning(
                now,
                "No version folders would be created under the log folder as "
                "'resume_if_exists' is enabled.",
            ),
            self.info(now, f"Experiments will be logged at {self._output_path}"),
        ]
        if self._plan.layout.sharding == "fsdp":
            text = "FSDP option is set to MCore. Using MCore's Custom FSDP for DP."
            lines.append(self.info(now, text))
        if not launch.step:
            lines.append(
                self.warning(
                    now,
                    "There were no checkpoints found in checkpoint_dir or no checkpoint folder at "
                    f"checkpoint_dir :{folder}. Training from scratch.",
                )
            )
        return lines

    def _groups(self, now: float) -> list[str]:
        """Who belongs to whom, as rank 0 tells it."""
        layout = self._plan.layout
        shape = (
            layout.pipeline_parallel,
            layout.data_parallel,
            layout.context_parallel,
            layout.tensor_parallel,
        )
        ranks = np.arange(int(np.prod(shape))).reshape(shape)
        data = _cut(ranks, (0, 2, 3), (1,))
        with_context = _cut(ranks, (0, 3), (1, 2))
        context = _cut(ranks, (0, 1, 3), (2,))
        model = _cut(ranks, (1, 2), (0, 3))
        tensor = _cut(ranks, (0, 1, 2), (3,))
        pipeline = _cut(ranks, (1, 2, 3), (0,))
        ends = [pipeline[0][0], pipeline[0][-1]] if len(pipeline[0]) > 1 else pipeline[0]
        texts = (
            f"Rank 0 has data parallel group : {data[0]}",
            f"Rank 0 has combined group of data parallel and context parallel : {with_context[0]}",
            f"All data parallel group ranks with context parallel combined: {with_context}",
            "Ranks 0 has data parallel rank: 0",
            f"Rank 0 has context parallel group: {context[0]}",
            f"All context parallel group ranks: {context}",
            "Ranks 0 has context parallel rank: 0",
            f"Rank 0 has model parallel group: {model[0]}",
            f"All model parallel group ranks: {model}",
            f"Rank 0 has tensor model parallel group: {tensor[0]}",
            f"All tensor model parallel group ranks: {tensor}",
            "Rank 0 has tensor model parallel rank: 0",
            f"Rank 0 has pipeline model parallel group: {pipeline[0]}",
            f"Rank 0 has embedding group: {ends}",
            f"All pipeline model parallel group ranks: {pipeline}",
            "Rank 0 has pipeline model parallel rank 0",
            f"All embedding group ranks: {pipeline}",
            "Rank 0 has embedding rank: 0",
        )
        world = layout.world_size
        return [
            *(self.info(now, text) for text in texts),
            f"Initializing distributed: GLOBAL_RANK: 0, MEMBER: 1/{world}",
        ]

    def _network(self, now: float) -> list[str]:
        layout = self._plan.layout
        constant = f"setting number of microbatches to constant {layout.micro_batches}"
        return [
            _RULE,
            "distributed_backend=nccl",
            f"All distributed processes registered. Starting with {layout.world_size} processes",
            _RULE,
            "",
            self.info(now, constant, "num_microbatches_calculator:228"),
        ]

    def _data(self, now: float) -> list[str]:
        """Indices made before the run; samples that are wanted of each split."""
        recipe, name = self._plan.spec.recipe, self._plan.spec.dataset.name
        habits = self._habits
        train, validation, _ = samples_wanted(
            recipe, eval_interval=habits.eval_interval, eval_iters=habits.eval_iters
        )
        texts = [
            f"Load the _IndexReader from data/{name}_text_document.idx",
            "\tExtract the sequence lengths",
            "\tExtract the sequence pointers",
            "\tExtract the document indices",
        ]
        for split, samples in (("train", train), ("valid", validation)):
            key = f"{name}/{split}/{recipe.seq_len}/{samples}"
            prefix = hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()
            files = f"{prefix}-GPTDataset-{split}"
            texts.append(f"Load the GPTDataset {split} indices")
            texts += [
                f"\tLoad the {part} index from {files}-{part}_index.npy"
                for part in ("document", "sample", "shuffle")
            ]
            texts.append(f"> total number of samples: {samples}")
        size, padded = self._plan.spec.model.vocab_size, padded_vocab(self._plan)
        return [
            *(self.info(now, text, _CORE) for text in texts),
            self.info(
                now,
                f"Padded vocab_size: {padded}, original vocab_size: {size}, "
                f"dummy tokens: {padded - size}.",
            ),
        ]

    def _model(self, now: float) -> list[str]:
        plan = self._plan
        layout, total = plan.layout, plan.spec.recipe.total_steps
        counts = (
            " > number of parameters on (tensor, pipeline) model parallel rank "
            f"({rank} ,{stage}): {rank_parameters(plan, stage)}"
            for stage in range(layout.pipeline_parallel)
            for rank in range(layout.tensor_parallel)
        )
        copied = f"Copying Trainer's 'max_steps' ({total}) to LR scheduler's 'max_steps'."
        wrapped = f"Setting up DistributedDataParallel with config {self._wrapper()}"
        optimizer = f"Setting up optimizer with config {megatron.optimizer_text(plan)}"
        return [
            self.info(now, copied),
            *(self.info(now, count) for count in counts),
            self.info(now, wrapped, _CORE),
            self.info(now, optimizer, _CORE),
            *self._summary(),
        ]

    def _wrapper(self) -> str:
        """How gradients are reduced, as Python shows a record."""
        plan = self._plan
        layout = plan.layout
        is_sharded = layout.sharding != "ddp"
        overlaps = plan.spec.stack.comm_overlap and layout.data_parallel > 1
        in_fp32 = plan.spec.recipe.gradient_precision == "fp32"
        return (
            f"DistributedDataParallelConfig(grad_reduce_in_fp32={in_fp32}, "
            f"overlap_grad_reduce={overlaps}, overlap_param_gather={overlaps and is_sharded}, "
            f"align_param_gather=False, use_distributed_optimizer={is_sharded}, "
            "num_distributed_optimizer_instances=1, check_for_nan_in_grad=False, "
            "check_for_large_grads=False, bucket_size=None, average_in_collective=True, "
            f"fp8_param_gather=False, use_custom_fsdp={layout.sharding == 'fsdp'})"
        )

    def _summary(self) -> list[str]:
        """Lightning's table of rank 0's part of the model."""
        parameters = rank_parameters(self._plan, 0)
        count = readable_count(parameters)
        width = max(len("Params"), len(count))
        header = f"  | Name   | Type | {'Params':<{width}} | Mode "
        rule = "-" * (34 + width)
        modules = _MODULES_PER_LAYER * len(layers_of_stage(self._plan, 0)) + _MODULES_BESIDE
        rows = (
            (count, "Trainable params"),
            (readable_count(0), "Non-trainable params"),
            (count, "Total params"),
            (f"{4 * parameters / 1e6:,.3f}", "Total estimated model params size (MB)"),
            (str(modules), "Modules in train mode"),
            ("0", "Modules in eval mode"),
        )
        return [
            "",
            header,
            rule,
            f"0 | module | DDP  | {count:<{width}} | train",
            rule,
            *(f"{value:<{_COUNT_WIDTH}}{name}" for value, name in rows),
        ]

    def _weights(self, launch: Moments, begun_s: float) -> tuple[list[str], list[str]]:
        """What is said when reading begins, and when it is over."""
        now = launch.training_s
        address = 0x7F0000000000 + 16 * drawn(2**28, "nemo", "load", self._seed, launch.attempt)
        wrapper = "megatron.core.dist_checkpointing.strategies.fully_parallel"
        using = self.info(
            begun_s,
            f"Using <{wrapper}.FullyParallelLoadStrategyWrapper object at {address:#x}> "
            "dist-ckpt load strategy.",
        )
        loaded = self.info(
            now,
            f"Global Checkpoint Load : Rank : 0 : Start time : {self._dates.unix(begun_s)}s : "
            f"Time spent in load_checkpoint: {now - begun_s:.3f}s",
        )
        if launch.step:
            path = checkpoint_path(self._plan, self._habits.folder, launch.step)
            return (
                [f"Restoring states from the checkpoint path at {path}", using],
                [loaded, f"Restored all states from the checkpoint at {path}"],
            )
        if not self._plan.spec.recipe.continued_loss:
            return [], []
        config = (
            f"RestoreConfig(path='models/{self._plan.spec.model.name}', load_model_state=True, "
            "load_optim_state=False, load_artifacts=True)"
        )
        return (
            [self.info(begun_s, f"Doing selective restore from {config}"), using],
            [
                loaded,
                self.info(now, f"Restoring model weights from {config}"),
                self.info(now, f"Finished restoring from {config}, cleaning up."),
            ],
        )

    def _machine(self, now: float) -> list[str]:
        """The state machine that could do steps again."""
        site = "rerun_state_machine"
        begun = "Implicit initialization of Rerun State Machine!"
        mode = "RerunStateMachine initialized in mode RerunMode.DISABLED"
        return [self.warning(now, begun, f"{site}:1264"), self.warning(now, mode, f"{site}:239")]


def _cut(
    ranks: NDArray[np.intp], outer: tuple[int, ...], inner: tuple[int, ...]
) -> list[list[int]]:
    """Groups of ranks that differ along the inner axes only."""
    size = int(np.prod([ranks.shape[axis] for axis in inner]))
    groups: list[list[int]] = ranks.transpose(*outer, *inner).reshape(-1, size).tolist()
    return groups


def checkpoint_path(plan: Plan, folder: str, step: int) -> str:
    """Where the checkpoint of a step is: named by the samples it has seen."""
    name = plan.spec.model.name.lower().replace(" ", "-").replace("/", "-")
    samples = float(step * plan.spec.recipe.global_batch_size)
    return f"{folder}/{name}--epoch=0-consumed_samples={samples}-last"


def readable_count(number: int) -> str:
    """`8.0 B`, as Lightning shortens numbers."""
    groups = min((len(str(number)) + 2) // 3, len(_UNITS))
    shown = number * 10 ** (-3 * (groups - 1))
    if groups == 1 or shown >= _ABBREVIATED:
        return f"{int(shown):,d} {_UNITS[groups - 1]}"
    return f"{shown:,.1f} {_UNITS[groups - 1]}"
