"""The start-up of Megatron-DeepSpeed, line by line in its order, the engine's lines among them.

Sources: microsoft/Megatron-DeepSpeed, megatron/initialize.py, training.py, checkpointing.py,
data/gpt_dataset.py; DeepSpeed 0.16.9, __init__.py, runtime/engine.py, runtime/config.py,
runtime/zero/stage_1_and_2.py and stage3.py, runtime/bf16_optimizer.py, runtime/pipe/*.py,
utils/timer.py. Of what all ranks log alike rank 0's lines are shown.
"""

from __future__ import annotations

import hashlib

from ghosttrain.core.messages.writer import drawn
from ghosttrain.core.plan import Plan
from ghosttrain.core.units import GIB
from ghosttrain.exporters.dialects import deepspeed_setup as setup
from ghosttrain.exporters.dialects import megatron_arguments as megatron
from ghosttrain.exporters.dialects.dates import Dates
from ghosttrain.exporters.dialects.job_log import Rows
from ghosttrain.exporters.dialects.launches import Moments
from ghosttrain.exporters.dialects.megatron_arguments import Habits
from ghosttrain.exporters.dialects.megatron_memory import paged_mib
from ghosttrain.exporters.dialects.megatron_model import padded_vocab, rank_parameters
from ghosttrain.exporters.dialects.megatron_words import samples_wanted, targets_lines, timers_lines

LOG_DIST = "logging.py:107:log_dist"
CHECKPOINT_ENGINE = "torch_checkpoint_engine.py"
_STAGE_3 = 3
_HOST_GB = 2015.4  # memory of a node
_BUCKET = 500_000_000  # elements, DeepSpeed's default


class StartUp:
    """Writes the start-ups of one run.

    Args:
        plan: The run's.
        seed: The run's: of what the run does not say.
        dates: Of the run.
        habits: How the trainer is asked to work.
        log_interval: Steps between two lines.
    """

    def __init__(
        self, plan: Plan, seed: int, dates: Dates, habits: Habits, log_interval: int
    ) -> None:
        self._plan, self._seed, self._dates = plan, seed, dates
        self._habits, self._log_interval = habits, log_interval

    def info(self, time_s: float, site: str, text: str) -> str:
        """A line of DeepSpeed's logger."""
        return f"[{self._dates.milli(time_s)}] [INFO] [{site}] {text}"

    def rank_0(self, time_s: float, text: str) -> str:
        """A line that rank 0 alone is asked for."""
        return self.info(time_s, LOG_DIST, f"[Rank 0] {text}")

    def rows(self, launch: Moments) -> Rows:
        """(run time, lines) of a launch."""
        return [
            (launch.program_s, "\n".join(self._arguments(launch))),
            (launch.tokenizer_s, "\n".join(self._tokenizer())),
            (launch.network_s, "\n".join(self._network(launch))),
            *self._engine(launch),
            (launch.model_s, "\n".join(self._weights(launch))),
            (launch.training_s, "\n".join(self._data(launch))),
        ]

    def _arguments(self, launch: Moments) -> list[str]:
        layout = self._plan.layout
        site = "real_accelerator.py:254:get_accelerator"
        return [
            self.info(launch.program_s, site, "Setting ds_accelerator to cuda (auto detect)"),
            f"using world size: {layout.world_size}, data-parallel-size: {layout.data_parallel}, "
            f"sequence-parallel size: {layout.context_parallel}, "
            f"tensor-model-parallel size: {layout.tensor_parallel}, "
            f"pipeline-model-parallel size: {layout.pipeline_parallel} ",
            f"using {megatron.params_dtype(self._plan)} for parameters ...",
            *setup.argument_lines(self._plan, self._habits, self._log_interval),
            "> building HFTokenizer tokenizer ...",
        ]

    def _tokenizer(self) -> list[str]:
        size, padded = self._plan.spec.model.vocab_size, padded_vocab(self._plan)
        return [
            f" > padded vocab (size: {size}) with {padded - size} dummy tokens "
            f"(new size: {padded})",
            "> initializing torch distributed ...",
        ]

    def _network(self, launch: Moments) -> list[str]:
        layout = self._plan.layout
        now = launch.network_s
        helpers_s = (30 + self._draw(launch, "compile", 40)) / 1000
        kernels_s = min(1.5 + self._draw(launch, "kernels", 2000) / 1000, 0.5 * self._took(launch))
        backend = "Initializing TorchBackend in DeepSpeed with backend nccl"
        return [
            self.info(launch.tokenizer_s, "comm.py:669:init_distributed", "cdb=None"),
            self.info(launch.tokenizer_s, "comm.py:700:init_distributed", backend),
            f"> initialized tensor model parallel with size {layout.tensor_parallel}",
            f"> initialized pipeline model parallel with size {layout.pipeline_parallel}",
            f"> setting random seeds to {megatron.RANDOM_SEED} ...",
            "> compiling dataset index builder ...",
            ">>> done with dataset index builder. Compilation time: "
            f"{min(helpers_s, self._took(launch)):.3f} seconds",
            "> compiling and loading fused kernels ...",
            ">>> done with compiling and loading fused kernels. Compilation time: "
            f"{kernels_s:.3f} seconds",
            f"time to initialize megatron (seconds): {self._took(launch):.3f}",
            f"[after megatron is initialized] datetime: {self._dates.second(now)} ",
            "building GPT model ...",
            *self._memory(launch, now, "Before Building Model", 0.0),
        ]

    def _took(self, launch: Moments) -> float:
        return launch.network_s - launch.start_s

    # The engine: what it says comes in the first third of the time until the weights are there.

    def _engine(self, launch: Moments) -> Rows:
        end_s = launch.built_s + (launch.model_s - launch.built_s) / 3
        texts = (self._model, self._engine_begins, self._optimizer, self._engine_is_up)
        times = [launch.built_s + (end_s - launch.built_s) * i / 3 for i in range(len(texts))]
        return [
            (time_s, "\n".join(lines(launch, time_s)))
            for time_s, lines in zip(times, texts, strict=True)
        ]

    def _model(self, launch: Moments, now: float) -> list[str]:
        plan = self._plan
        layout = plan.layout
        pipeline = []
        if setup.has_pipeline(plan):
            pipeline = [
                f"SEED_LAYERS=False BASE_SEED={megatron.RANDOM_SEED} SEED_FN=None",
                setup.topology_line(plan),
                self.info(
                    now,
                    "module.py:398:_partition_layers",
                    "Partitioning pipeline stages with method type:transformer",
                ),
                *setup.partition_lines(plan),
            ]
        return [
            *pipeline,
            *self._memory(launch, now, "After Building Model", self._weights_gib()),
            *(
                " > number of parameters on (tensor, pipeline) model parallel rank "
                f"({rank}, {stage}): {rank_parameters(plan, stage)}"
                for stage in range(layout.pipeline_parallel)
                for rank in range(layout.tensor_parallel)
            ),
            f"> learning rate decay style: {plan.spec.recipe.schedule}",
            "DeepSpeed is enabled.",
        ]

    def _engine_begins(self, _: Moments, now: float) -> list[str]:
        version = "DeepSpeed info: version=0.16.9, git-hash=unknown, git-branch=unknown"
        replicas = self._plan.layout.data_parallel
        mesh = f"Config mesh_device None world_size = {replicas}"
        adam = (
            "Checking ZeRO support for optimizer=FusedAdam "
            "type=<class 'apex.optimizers.fused_adam.FusedAdam'>"
        )
        sharded = setup.zero_stage(self._plan) > 0
        return [
            self.rank_0(now, version),
            self.info(now, "config.py:735:__init__", mesh),
            self.rank_0(now, "DeepSpeed Flops Profiler Enabled: False"),
            self.rank_0(now, "Using client Optimizer as basic optimizer"),
            self.rank_0(now, "Removing param_group that has no 'params' in the basic Optimizer"),
            self.rank_0(now, "DeepSpeed Basic Optimizer = FusedAdam"),
            *([self.info(now, "utils.py:59:is_zero_supported_optimizer", adam)] if sharded else []),
        ]

    def _optimizer(self, launch: Moments, now: float) -> list[str]:
        stage = setup.zero_stage(self._plan)
        dtype = megatron.params_dtype(self._plan)
        created = self.rank_0(now, f"Creating {dtype} ZeRO stage {stage} optimizer")
        if stage == _STAGE_3:
            return [
                self.rank_0(
                    now,
                    "Creating fp16 ZeRO stage 3 optimizer, MiCS is enabled False, "
                    "Hierarchical params gather False",
                ),
                created,
                *self._stage_3(launch, now),
            ]
        if stage:
            return [created, *self._stages_1_and_2(launch, now)]
        if setup.is_half(self._plan):
            return [self.rank_0(now, "Creating fp16 optimizer with dynamic loss scale")]
        held, states = self._weights_gib(), self._states_gib()
        points = (
            ("begin bf16_optimizer", held),
            ("before initializing group 0", held),
            ("after initializing group 0", states),
            ("before initializing group 1", states),
            ("after initializing group 1", states),
            ("end bf16_ optimizer", states),
        )
        return [
            self.rank_0(now, "Creating BF16 optimizer"),
            *(line for name, gib in points for line in self._memory(launch, now, name, gib)),
        ]

    def _stages_1_and_2(self, launch: Moments, now: float) -> list[str]:
        module = "stage_1_and_2.py"
        masters = self._masters_gib()
        return [
            self.info(now, f"{module}:150:__init__", f"Reduce bucket size {_BUCKET}"),
            self.info(now, f"{module}:151:__init__", f"Allgather bucket size {_BUCKET}"),
            self.info(now, f"{module}:152:__init__", "CPU Offload: False"),
            self.info(now, f"{module}:153:__init__", "Round robin gradient partitioning: False"),
            *self._memory(launch, now, "Before initializing optimizer states", masters),
            *self._memory(launch, now, "After initializing optimizer states", self._states_gib()),
            self.info(now, f"{module}:557:__init__", "optimizer state initialized"),
            *self._memory(launch, now, "After initializing ZeRO optimizer", self._states_gib()),
        ]

    def _stage_3(self, launch: Moments, now: float) -> list[str]:
        held, masters, states = self._weights_gib(), self._masters_gib(), self._states_gib()

        def told(*points: tuple[str, float]) -> list[str]:
            return [line for name, gib in points for line in self._memory(launch, now, name, gib)]

        site = "stage3.py:534:_setup_for_real_optimizer"
        return [
            *told(("Stage 3 initialize beginning", held)),
            self.info(now, "stage3.py:170:__init__", f"Reduce bucket size {_BUCKET}"),
            self.info(now, "stage3.py:171:__init__", "Prefetch bucket size 50000000"),
            *told(("DeepSpeedZeRoOffload initialize [begin]", held)),
            *told(
                ("DeepSpeedZeRoOffload initialize [end]", held),
                ("Before creating fp16 partitions", held),
                ("After creating fp16 partitions: 1", held),
                ("Before creating fp32 partitions", held),
                ("After creating fp32 partitions", masters),
                ("Before initializing optimizer states", masters),
                ("After initializing optimizer states", states),
            ),
            self.info(now, site, "optimizer state initialized"),
            *told(("After initializing ZeRO optimizer", states)),
        ]

    def _engine_is_up(self, launch: Moments, now: float) -> list[str]:
        plan = self._plan
        beta2 = plan.spec.recipe.beta2
        address = 0x7F0000000000 + 16 * self._draw(launch, "address", 2**28)
        scheduler = "megatron.optimizer_param_scheduler.OptimizerParamScheduler"
        configuration = setup.configuration(plan, self._log_interval)
        site, file_site = "config.py:1007:print", "config.py:993:print_user_config"
        moments = f"mom=[(0.9, {beta2}), (0.9, {beta2})]"
        return [
            self.rank_0(now, f"DeepSpeed Final Optimizer = {setup.optimizer_name(plan)}"),
            self.rank_0(now, "DeepSpeed using client LR scheduler"),
            self.rank_0(now, f"DeepSpeed LR Scheduler = <{scheduler} object at {address:#x}>"),
            self.rank_0(now, f"step=0, skipped=0, lr=[0.0, 0.0], {moments}"),
            self.info(now, "config.py:1003:print", "DeepSpeedEngine configuration:"),
            *(self.info(now, site, line) for line in configuration),
            self.info(now, file_site, setup.configuration_file(plan, self._log_interval)),
            *(self._pipeline_engine(now) if setup.has_pipeline(plan) else []),
        ]

    def _pipeline_engine(self, now: float) -> list[str]:
        layout, plan = self._plan.layout, self._plan
        cuts, stages = layout.tensor_parallel, layout.pipeline_parallel
        own = [rank_parameters(plan, stage) for stage in range(stages)]
        total = sum(own) * cuts
        words = padded_vocab(plan) // cuts * plan.spec.model.hidden_size
        unique = total - (words * cuts if plan.spec.model.tied_embeddings else 0)
        batches = (
            f"CONFIG: micro_batches={layout.micro_batches} "
            f"micro_batch_size={layout.micro_batch_size}"
        )
        cut = "is_pipe_partitioned= False is_grad_partitioned= False"
        lines = [
            self.info(now, "engine.py:105:__init__", batches),
            self.info(now, "engine.py:146:__init__", cut),
        ]
        for stage, held in enumerate(own):
            first, count = setup.stage_bounds(plan, stage)
            for cut_rank in range(cuts):
                rank = stage * (layout.world_size // stages) + cut_rank
                text = (
                    f"RANK={rank} STAGE={stage} LAYERS={count} [{first}, {first + count}) "
                    f"STAGE_PARAMS={held} ({held / 1e6:0.3f}M) "
                    f"TOTAL_PARAMS={total} ({total / 1e6:0.3f}M) "
                    f"UNIQUE_PARAMS={unique} ({unique / 1e6:0.3f}M)"
                )
                lines.append(self.info(now, "engine.py:165:__init__", text))
        return lines

    # Weights and data.

    def _weights(self, launch: Moments) -> list[str]:
        now, folder = launch.model_s, self._habits.folder
        loaded_ms = 1000 * (launch.model_s - launch.built_s)
        recipe = self._plan.spec.recipe
        if launch.step or recipe.continued_loss:
            name = f"global_step{launch.step}"
            place = folder if launch.step else f"models/{self._plan.spec.model.name}"
            lines = self._load(launch, place, name)
        else:
            loaded_ms = 0.5 + self._draw(launch, "look", 100) / 100
            lines = [
                f"[{self._dates.milli(now)}] [WARNING] [engine.py:2970:load_checkpoint] Unable to "
                f"find latest file at {folder}/latest, if trying to load latest checkpoint please "
                "ensure this file exists or pass an explicit checkpoint tag when loading a "
                "checkpoint.",
                f"WARNING: could not find the metadata file {folder} ",
                "    will not load any checkpoints and will start from random",
            ]
        return [
            *lines,
            *timers_lines(("load-checkpoint", loaded_ms * 0.9995, loaded_ms), logger=""),
            "[after model, optimizer, and learning rate scheduler are built] datetime: "
            f"{self._dates.second(now)} ",
        ]

    def _load(self, launch: Moments, folder: str, name: str) -> list[str]:
        now = launch.model_s
        begin_s = launch.built_s + (launch.model_s - launch.built_s) / 3
        replicas = self._plan.layout.data_parallel
        lines = self._read(begin_s, now, model_file(self._plan, f"{folder}/{name}"))
        if setup.has_zero_files(self._plan):
            read = f"successfully read {replicas} ZeRO state_dicts for rank 0"
            got = f"loading {replicas} zero partition checkpoints for rank 0"
            lines += [
                *self._read(begin_s, now, optimizer_file(self._plan, f"{folder}/{name}")),
                self.info(now, "engine.py:3241:_get_all_zero_checkpoint_state_dicts", read),
                self.info(now, "engine.py:3191:_load_zero_checkpoint", got),
            ]
        return [
            *lines,
            " checkpoint version 3.0",
            f"  successfully loaded checkpoint from {folder} at iteration {launch.step}",
        ]

    def _read(self, begin_s: float, end_s: float, path: str) -> list[str]:
        site = CHECKPOINT_ENGINE
        return [
            self.info(begin_s, f"{site}:27:load", f"[Torch] Loading checkpoint from {path}..."),
            self.info(end_s, f"{site}:29:load", f"[Torch] Loaded checkpoint from {path}."),
        ]

    def _data(self, launch: Moments) -> list[str]:
        recipe, dates, habits = self._plan.spec.recipe, self._dates, self._habits
        wanted = samples_wanted(
            recipe, eval_interval=habits.eval_interval, eval_iters=habits.eval_iters
        )
        built_ms = 1000 * (launch.training_s - launch.model_s)
        model_ms = 1000 * (launch.model_s - launch.network_s)
        now = dates.second(launch.training_s)
        return [
            *targets_lines(wanted),
            "> building train, validation, and test datasets for GPT ...",
            " > building dataset index ...",
            "    reading sizes...",
            "    reading pointers...",
            "    reading document index...",
            "    creating numpy buffer of mmap...",
            "    creating memory view of numpy buffer...",
            f" > finished creating indexed dataset in {0.002 + built_ms / 1e7:4f} seconds",
            *self._index("train", wanted[0], recipe.epochs, built_ms),
            *self._index("valid", wanted[1], 1, built_ms),
            "> finished creating GPT datasets ...",
            f"[after dataloaders are built] datetime: {now} ",
            "done with setup ...",
            *timers_lines(
                ("model-and-optimizer-setup", model_ms * 0.998, model_ms),
                ("train/valid/test-data-iterators-setup", built_ms * 0.8, built_ms),
                logger="",
            ),
            "training ...",
            f"[before the start of training step] datetime: {now} ",
        ]

    def _index(self, split: str, samples: int, epochs: int, built_ms: float) -> list[str]:
        """The mappings of a split, made before the run."""
        name = self._plan.spec.dataset.name
        key = f"{name}/{split}/{self._plan.spec.recipe.seq_len}/{samples}"
        prefix = hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()
        return [
            *(
                f" > loading {part}-idx mapping from data/index-cache/{prefix}_{part}_idx.npy"
                for part in ("doc", "sample", "shuffle")
            ),
            f"    loaded indexed file in {built_ms / 4e3:3.3f} seconds",
            f"    total number of samples: {samples + 1}",
            f"    total number of epochs: {epochs}",
        ]

    # Memory.

    def _memory(self, launch: Moments, now: float, name: str, held_gib: float) -> list[str]:
        """What DeepSpeed says of the memory of rank 0 at one of its points."""
        site = "see_memory_usage"
        cached_gib = paged_mib(held_gib) / 1024
        used_gb = 60 + self._draw(launch, name, 2500) / 100
        return [
            self.info(now, f"utils.py:781:{site}", name),
            self.info(
                now,
                f"utils.py:782:{site}",
                f"MA {round(held_gib, 2)} GB         Max_MA {round(held_gib, 2)} GB         "
                f"CA {round(cached_gib, 2)} GB         Max_CA {round(cached_gib)} GB ",
            ),
            self.info(
                now,
                f"utils.py:789:{site}",
                f"CPU Virtual Memory:  used = {round(used_gb, 2)} GB, "
                f"percent = {round(100 * used_gb / _HOST_GB, 1)}%",
            ),
        ]

    def _weights_gib(self) -> float:
        """Weights in two bytes each, all of them or with stage 3 the rank's share."""
        shards = self._shards() if setup.zero_stage(self._plan) == _STAGE_3 else 1
        return 2 * rank_parameters(self._plan, 0) / shards / GIB

    def _masters_gib(self) -> float:
        """The weights, and the optimizer's copy of the rank's share in four bytes each."""
        copy = 4 * rank_parameters(self._plan, 0) / self._shards() / GIB
        return min(self._weights_gib() + copy, self._states_gib())

    def _states_gib(self) -> float:
        return max(self._plan.stage_memory[0].states_gib, self._weights_gib())

    def _shards(self) -> int:
        return self._plan.layout.data_parallel * self._plan.layout.context_parallel

    def _draw(self, launch: Moments, name: str, below: int) -> int:
        return drawn(below, "deepspeed", name, self._seed, launch.attempt)


def model_file(plan: Plan, folder: str) -> str:
    """Where rank 0 keeps weights and counts."""
    shard = "zero_pp_rank_0_" if setup.zero_stage(plan) == _STAGE_3 else ""
    return f"{folder}/{shard}mp_rank_00_model_states.pt"


def optimizer_file(plan: Plan, folder: str) -> str:
    """Where rank 0 keeps its share of the optimizer's states."""
    precision = "" if setup.is_half(plan) else "bf16_"
    return f"{folder}/{precision}zero_pp_rank_0_mp_rank_00_optim_states.pt"
