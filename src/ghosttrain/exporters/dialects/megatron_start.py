"""The start-up of Megatron-LM, line by line in its order.

Sources: NVIDIA/Megatron-LM core_v0.17.0: megatron/training/arguments.py (validate_args),
initialize.py, training.py (pretrain, setup_model_and_optimizer), checkpointing.py
(load_checkpoint), core/timers.py, core/datasets/*.py, core/optimizer_param_scheduler.py,
pretrain_gpt.py, gpt_builders.py. Left out: the lists of parameters by bucket, and what Python and
the libraries warn of.
"""

from __future__ import annotations

import hashlib

from ghosttrain.core.messages.writer import drawn
from ghosttrain.core.plan import Plan
from ghosttrain.exporters.dialects import megatron_arguments as arguments
from ghosttrain.exporters.dialects.dates import Dates
from ghosttrain.exporters.dialects.launches import Moments
from ghosttrain.exporters.dialects.megatron_arguments import Habits
from ghosttrain.exporters.dialects.megatron_model import padded_vocab, rank_parameters
from ghosttrain.exporters.dialects.megatron_words import samples_wanted, targets_lines, timers_lines

_SPLITS = ("train", "valid")  # the split 99,1,0 has no third


class StartUp:
    """Writes the start-ups of one run.

    Args:
        plan: The run's.
        seed: The run's: of what the run does not say, such as how far ranks are apart.
        dates: Of the run.
        habits: How Megatron is asked to work.
        log_interval: Steps between two lines.
    """

    def __init__(
        self, plan: Plan, seed: int, dates: Dates, habits: Habits, log_interval: int
    ) -> None:
        self._plan, self._seed, self._dates = plan, seed, dates
        self._habits, self._log_interval = habits, log_interval

    def rows(self, launch: Moments) -> list[tuple[float, str]]:
        """(run time, lines) of a launch."""
        parts = (
            (launch.program_s, self._arguments()),
            (launch.tokenizer_s, self._tokenizer()),
            (launch.network_s, self._network(launch)),
            (launch.built_s, self._model()),
            (launch.model_s, self._weights(launch)),
            (launch.training_s, self._data(launch)),
        )
        return [(time_s, "\n".join(lines)) for time_s, lines in parts]

    def _arguments(self) -> list[str]:
        layout = self._plan.layout
        chunks = layout.virtual_stages if layout.virtual_stages > 1 else None
        is_fp32 = arguments.params_dtype(self._plan) == "torch.bfloat16" and (
            self._plan.spec.recipe.gradient_precision == "fp32"
        )
        kept = ["accumulate and all-reduce gradients in fp32 for bfloat16 data type."]
        return [
            f"using world size: {layout.world_size}, data-parallel size: {layout.data_parallel}, "
            f"context-parallel size: {layout.context_parallel}, "
            "hierarchical context-parallel sizes: None, "
            f"tensor-model-parallel size: {layout.tensor_parallel}, "
            f"pipeline-model-parallel size: {layout.pipeline_parallel}",
            f"Number of virtual stages per pipeline stage: {chunks}",
            *(kept if is_fp32 else []),
            f"using {arguments.params_dtype(self._plan)} for parameters ...",
            *arguments.argument_lines(self._plan, self._habits, self._log_interval),
        ]

    def _tokenizer(self) -> list[str]:
        size, padded = self._plan.spec.model.vocab_size, padded_vocab(self._plan)
        return [
            "INFO:megatron.core.tokenizers.utils.build_tokenizer: > padded vocab (size: "
            f"{size}) with {padded - size} dummy tokens (new size: {padded})",
            "WARNING:megatron.core.rerun_state_machine:RerunStateMachine initialized in mode "
            "RerunMode.DISABLED",
            "> initializing torch distributed ...",
        ]

    def _network(self, launch: Moments) -> list[str]:
        layout, dates = self._plan.layout, self._dates
        compiled_s = (30 + self._draw(launch, "compile", 40)) / 1000
        took_s = launch.network_s - launch.start_s
        before = dates.micro(launch.program_s)
        return [
            f"> initialized tensor model parallel with size {layout.tensor_parallel}",
            f"> initialized pipeline model parallel with size {layout.pipeline_parallel}",
            f"> setting random seeds to {arguments.RANDOM_SEED} ...",
            "> compiling dataset index builder ...",
            ">>> done with dataset index builder. Compilation time: "
            f"{min(compiled_s, took_s):.3f} seconds",
            f"time to initialize megatron (seconds): {took_s:.3f}",
            f"[after in-process setup and before initialize_megatron] datetime: {before} ",
            f"[after in-job setup and before initialize_megatron] datetime: {before} ",
            *self._startup_timers(launch),
            f"[before library-setup] datetime: {dates.micro(launch.start_s)}",
            f"[after library-setup] datetime: {before}",
            f"[before megatron-init] datetime: {before}",
            f"[after megatron is initialized] datetime: {dates.micro(launch.network_s)} ",
        ]

    def _startup_timers(self, launch: Moments) -> list[str]:
        """Where the time up to here went; ranks start apart, and then wait for one another."""
        library_ms = 1000 * (launch.program_s - launch.start_s)
        whole_ms = 1000 * (launch.network_s - launch.start_s)
        init_ms = whole_ms - library_ms
        apart_ms = library_ms * (10 + self._draw(launch, "apart", 30)) / 1000
        first_ms = min(0.5 * init_ms, 20.0 + self._draw(launch, "first", 60))
        local_ms = init_ms - first_ms
        jit_ms = local_ms * 1e-4
        return timers_lines(
            ("startup-program-entry-spread", apart_ms / 100, apart_ms),
            ("startup-library-setup", library_ms - apart_ms, library_ms),
            ("startup-program-setup", 0.31, 0.94),
            ("startup-in-process-setup", 0.01, 0.02),
            ("startup-in-job-setup", 0.01, 0.02),
            ("startup-initialize-megatron", local_ms - jit_ms - 1, local_ms - jit_ms),
            ("startup-set-jit-fusion-options", jit_ms / 2, jit_ms),
            ("all-reduce-start-timestamps-tensor", first_ms * 0.98, first_ms),
            ("startup-megatron-init-local", init_ms - 1, init_ms),
            ("startup-megatron-init-global", whole_ms - 1, whole_ms),
        )

    def _model(self) -> list[str]:
        plan = self._plan
        layout = plan.layout
        return [
            "building GPT model ...",
            *(
                " > number of parameters on (tensor, pipeline) model parallel rank "
                f"({rank}, {stage}): {rank_parameters(plan, stage)}"
                for stage in range(layout.pipeline_parallel)
                for rank in range(layout.tensor_parallel)
            ),
            "INFO:megatron.core.optimizer:Setting up optimizer with config "
            f"{arguments.optimizer_text(plan)}",
            "INFO:megatron.core.optimizer_param_scheduler:> learning rate decay style: "
            f"{arguments.decay_style(plan)}",
        ]

    def _weights(self, launch: Moments) -> list[str]:
        loaded_ms = 1000 * (launch.model_s - launch.built_s)
        recipe = self._plan.spec.recipe
        if launch.step:
            lines = self._load(self._habits.folder, launch.step)
        elif recipe.continued_loss:
            lines = self._pretrained()
        else:
            tracker = f"{self._habits.folder}/latest_checkpointed_iteration.txt"
            lines = [
                f"WARNING: could not find the metadata file {tracker}",
                "    will not load any checkpoints and will start from random",
            ]
            loaded_ms = 0.5 + self._draw(launch, "look", 100) / 100
        return [
            *lines,
            *timers_lines(("load-checkpoint", loaded_ms * 0.9995, loaded_ms)),
            "[after model, optimizer, and learning rate scheduler are built] datetime: "
            f"{self._dates.micro(launch.model_s)} ",
        ]

    def _load(self, folder: str, step: int) -> list[str]:
        what = "distributed " if arguments.checkpoint_format(self._plan) == "torch_dist" else ""
        return [
            *self._metadata(),
            f" loading {what}checkpoint from {folder} at iteration {step}",
            " checkpoint version 3.0",
            *self._scheduler(),
            f"  successfully loaded checkpoint from {folder} {first_place(self._plan)} "
            f"at iteration {step}",
        ]

    def _pretrained(self) -> list[str]:
        base = f"models/{self._plan.spec.model.name}"
        what = "distributed " if arguments.checkpoint_format(self._plan) == "torch_dist" else ""
        return [
            f"Checkpoint file not found in load directory {self._habits.folder} attempting to "
            f"finetune with checkpoint in {base}",
            *self._metadata(),
            f" loading release {what}checkpoint from {base}",
            " checkpoint version 3.0",
            f"  successfully loaded checkpoint from {base} {first_place(self._plan)} "
            "at iteration 0",
        ]

    def _metadata(self) -> list[str]:
        """What the checkpoint says of how it is cut."""
        if arguments.checkpoint_format(self._plan) != "torch_dist":
            return []
        sharded = "'distrib_optim_sharding_type': 'dp_reshardable', "
        kind = sharded if arguments.has_distributed_optimizer(self._plan) else ""
        return [
            f"sharded_state_dict metadata loaded from the checkpoint: {{{kind}"
            "'singleton_local_shards': False, 'chained_optim_avoid_prefix': True}"
        ]

    def _scheduler(self) -> list[str]:
        """Values the scheduler takes from the checkpoint; its steps are samples."""
        recipe = self._plan.spec.recipe
        batch = recipe.global_batch_size
        lowest = arguments.lowest_learning_rate(self._plan)
        values = (
            (recipe.peak_learning_rate, "learning rate"),
            (lowest, "minimum learning rate"),
            (recipe.warmup_steps * batch, "warmup iterations"),
            (recipe.total_steps * batch, "total number of iterations"),
            (arguments.decay_style(self._plan), "learning rate decay style"),
            (recipe.weight_decay, "start weight decay"),
            (recipe.weight_decay, "end weight decay"),
            (recipe.total_steps * batch, "total number of weight decay iterations"),
            ("constant", "weight decay incr style"),
        )
        logger = "INFO:megatron.core.optimizer_param_scheduler:"
        return [f"{logger} > using checkpoint value {value} for {name}" for value, name in values]

    def _data(self, launch: Moments) -> list[str]:
        recipe, dates, habits = self._plan.spec.recipe, self._dates, self._habits
        wanted = samples_wanted(
            recipe, eval_interval=habits.eval_interval, eval_iters=habits.eval_iters
        )
        built_ms = 1000 * (launch.training_s - launch.model_s)
        model_ms = 1000 * (launch.model_s - launch.network_s)
        now = dates.micro(launch.training_s)
        return [
            *targets_lines(wanted),
            "INFO:megatron.core.datasets.blended_megatron_dataset_config:Let split_matrix = "
            "[(0, 0.99), (0.99, 1.0), None]",
            "> building train, validation, and test datasets for GPT ...",
            *self._indices(launch, wanted[:2]),
            "> finished creating GPT datasets ...",
            f"[after dataloaders are built] datetime: {now} ",
            "done with setup ...",
            *timers_lines(
                ("model-and-optimizer-setup", model_ms * 0.998, model_ms),
                ("train/valid/test-data-iterators-setup", built_ms * 0.8, built_ms),
            ),
            "training ...",
            *self._rerun(launch),
            f"[before the start of training step] datetime: {now} ",
        ]

    def _indices(self, launch: Moments, samples: tuple[int, int]) -> list[str]:
        """Built by the first launch, found by the later ones."""
        name = self._plan.spec.dataset.name
        lines = [
            f"{_INDEXED}Load the _IndexReader from data/{name}_text_document.idx",
            f"{_INDEXED}\tExtract the sequence lengths",
            f"{_INDEXED}\tExtract the sequence pointers",
            f"{_INDEXED}\tExtract the document indices",
        ]
        epochs = self._plan.spec.recipe.epochs
        for split, count, passes in zip(_SPLITS, samples, (epochs, 1), strict=True):
            if launch.attempt == 1:
                lines += [
                    f"{_GPT}Build and save the GPTDataset {split} indices",
                    f"{_GPT}> total number of samples: {count}",
                    f"{_GPT}> total number of epochs: {passes}",
                ]
                continue
            key = f"{name}/{split}/{self._plan.spec.recipe.seq_len}/{count}"
            prefix = hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()
            files = f"{prefix}-GPTDataset-{split}"
            lines.append(f"{_GPT}Load the GPTDataset {split} indices")
            for part in ("document", "sample", "shuffle"):
                lines.append(f"{_GPT}\tLoad the {part} index from {files}-{part}_index.npy")
            lines.append(f"{_GPT}> total number of samples: {count}")
        return lines

    def _rerun(self, launch: Moments) -> list[str]:
        """The state machine that can do steps again learns where it is."""
        told = "Overwriting rerun_state_machine.current_iteration from -1 to"
        return [f"{told} {launch.step}..."]

    def _draw(self, launch: Moments, name: str, below: int) -> int:
        return drawn(below, "megatron", name, self._seed, launch.attempt)


_INDEXED = "INFO:megatron.core.datasets.indexed_dataset:"
_GPT = "INFO:megatron.core.datasets.gpt_dataset:"


def first_place(plan: Plan) -> str:
    """Which process of how many it is that tells of checkpoints: the first."""
    layout = plan.layout
    return f"[ t 1/{layout.tensor_parallel}, p 1/{layout.pipeline_parallel} ]"
