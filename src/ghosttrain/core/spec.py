"""What is asked: RunSpec and its parts, as frozen records.

A RunSpec is complete: names are resolved, what the user left open has been chosen. The one
thing still open is the parallel layout (fields of ParallelRequest that are None), which
`plan()` chooses to fit. Sizes are per model or per GPU as the name says; units are in names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Mlp = Literal["swiglu", "geglu", "gelu", "relu", "relu2"]
Norm = Literal["rmsnorm", "layernorm"]
QkNorm = Literal["none", "head", "full"]
Precision = Literal["bf16", "fp16", "fp8", "mxfp8", "nvfp4"]
LOW_PRECISIONS: tuple[Precision, ...] = ("fp8", "mxfp8", "nvfp4")  # products in 8 bits or less
GradientPrecision = Literal["fp32", "bf16"]
Schedule = Literal["cosine", "linear", "wsd", "constant"]
Sharding = Literal["ddp", "zero1", "zero2", "fsdp"]
Recompute = Literal["none", "selective", "full"]

# What a fault does to the run: its processes end at once or wait for the watchdog; they are told
# to save and end; steps take longer; one step waits; the loss goes astray; saving or validating
# is disturbed; or only a counter moves.
Course = Literal["crash", "hang", "stop", "slow", "stall", "loss", "save", "sign"]
FaultScope = Literal["gpu", "node", "rack", "fabric", "storage", "job"]
# What a fault changes while it lasts, with the unit of its severity:
#   slow-compute        longer kernels, as a share of their time
#   slow-host           kernels launched late, as a share of their time: the GPUs idle between them
#   slow-link           bandwidth of the links lost, as a share
#   slow-network        longer collectives, as a share of the step
#   late-data           wait for data in each step, as a share of the step
#   stall               wait of one step, seconds
#   power-cap           share of the power limit taken away
#   hot-air             warmer inlet air, degrees; GPUs that get too hot throttle
#   weak-cooling        growth of the thermal resistance, as a share; likewise
#   loss-spike          height of the loss, nats; likewise stuck-spike (does not come down all the
#                       way), loss-bump (small, without spike of the gradient norm), divergence
#                       (climbs and stays), corruption (drifts up)
#   loss-nan            loss and gradient norm are no numbers from then on
#   slow-storage        checkpoints take so many times as long; likewise slow-validation
#   full-storage        the next checkpoint fails
#   corrupt-checkpoint  the next checkpoint cannot be read back
Effect = Literal[
    "none",
    "slow-compute",
    "slow-host",
    "slow-link",
    "slow-network",
    "late-data",
    "stall",
    "power-cap",
    "hot-air",
    "weak-cooling",
    "loss-spike",
    "stuck-spike",
    "loss-bump",
    "loss-nan",
    "divergence",
    "corruption",
    "slow-storage",
    "slow-validation",
    "full-storage",
    "corrupt-checkpoint",
]
Sign = Literal["none", "ecc-corrected", "ecc-uncorrected", "row-remap", "nvlink-crc", "pcie-replay"]
# What ends a fault: the node is swapped for a spare; the GPU is reset, the host rebooted, the
# part repaired (same node); the processes are launched again; the run goes back to a checkpoint
# before the onset and skips batches; the node is left out at the next launch; it ends by itself.
Recovery = Literal["swap", "reset", "reboot", "repair", "relaunch", "rollback", "exclude", "self"]

GATED_MLPS = ("swiglu", "geglu")


@dataclass(frozen=True, slots=True)
class Mla:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434). q_lora_rank 0: no query LoRA."""

    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True, slots=True)
class Moe:
    """Mixture-of-experts feed-forward layers.

    Attributes:
        experts: Routed experts per MoE layer.
        experts_active: Routed experts a token visits.
        ffn_hidden_size: Width of one routed expert.
        shared_ffn_hidden_size: Summed width of the shared experts, 0 for none.
        first_dense_layers: Layers at the front that keep a dense feed-forward.
        every: Of the layers behind those, one in `every` is MoE (its last), the others dense.
        shared_gate: Whether a hidden-sized gate weighs the shared expert (Qwen2-MoE).
        router_bias: Whether the router has a bias per expert.
    """

    experts: int
    experts_active: int
    ffn_hidden_size: int
    shared_ffn_hidden_size: int = 0
    first_dense_layers: int = 0
    every: int = 1
    shared_gate: bool = False
    router_bias: bool = False

    def moe_layers(self, layers: int) -> int:
        """Number of MoE layers among `layers`."""
        return max(0, layers - self.first_dense_layers) // self.every


@dataclass(frozen=True, slots=True)
class Model:
    """A decoder-only transformer, and what is published of its training.

    `head_dim` is that of queries and keys; with `mla` the latent sizes rule instead.
    `learned_positions` counts rows of a learned position table, 0 for rotary or ALiBi.
    `embedding_size` is the width of the word embedding where a projection follows (OPT-350M),
    0 where it is the hidden size. Where there is a `sliding_window`, one layer in
    `full_attention_every` attends to everything, none where it is 0. Published training facts
    are 0 where nothing is published.
    """

    name: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_hidden_size: int
    vocab_size: int
    max_seq_len: int
    family: str = ""
    mlp: Mlp = "swiglu"
    norm: Norm = "rmsnorm"
    norms_per_layer: int = 2
    final_norm: bool = True
    qk_norm: QkNorm = "none"
    tied_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    attention_sinks: bool = False
    learned_positions: int = 0
    embedding_norm: bool = False
    embedding_size: int = 0
    sliding_window: int = 0
    full_attention_every: int = 0
    mla: Mla | None = None
    moe: Moe | None = None
    tokenizer: str = ""
    published_params: float = 0.0
    tokens_trained: float = 0.0
    peak_learning_rate: float = 0.0
    batch_tokens: float = 0.0
    satirical: bool = False
    note: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A tokenizer: its kind in words ("tiktoken BPE"), its English bytes per token."""

    name: str
    kind: str
    vocab_size: int
    bytes_per_token: float
    source: str = ""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A corpus.

    Attributes:
        tokens: Unique tokens available.
        loss_scale: Factor on the scaling law for this corpus (code is easier than web text).
        noise_c: c in sd(log loss) = c / sqrt(tokens per step): 7 well shuffled, 11 to 15 mixed.
        validation_gap: Validation minus training loss of the same model, nats.
    """

    name: str
    tokens: float
    kind: str = "web"
    loss_scale: float = 1.0
    noise_c: float = 8.0
    validation_gap: float = 0.0
    satirical: bool = False
    note: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as its driver names it, with the constants of the compute, network and thermal laws.

    Peaks are dense TFLOP/s. `memory_mib` is what nvidia-smi shows. `ring_busbw_gbs` and
    `nvls_busbw_gbs` are measured all-reduce bus bandwidths inside a node (GB/s; 0: none).
    `thermal_resistance_c_per_w` maps power to degrees over the inlet. `usd_per_gpu_hour` is a
    typical price of renting one, 0 where none is known.
    """

    name: str
    product_name: str
    vendor: str
    arch: str
    memory_mib: int
    hbm_gbs: float
    bf16_tflops: float
    fp16_tflops: float
    fp8_tflops: float
    nvlink_gbs: float
    tdp_w: float
    idle_w: float
    loaded_idle_w: float
    slowdown_c: float
    shutdown_c: float
    boost_mhz: int
    sustained_mhz: int
    memory_mhz: int
    sm_count: int
    gpus_per_node: int
    nvlink_domain: int
    nic_gbps: float
    gemm_efficiency: float
    attention_efficiency: float
    ring_busbw_gbs: float
    nvls_busbw_gbs: float
    thermal_resistance_c_per_w: float
    fp4_tflops: float = 0.0
    usd_per_gpu_hour: float = 0.0
    source: str = ""

    @property
    def memory_gib(self) -> float:
        """Memory of the card as nvidia-smi shows it, GiB."""
        return self.memory_mib / 1024


@dataclass(frozen=True, slots=True)
class Fabric:
    """The network between nodes: `efficiency` is the share of line rate a collective reaches."""

    name: str
    kind: Literal["InfiniBand", "RoCE", "Ethernet", "EFA", "Slingshot", "Omni-Path"]
    efficiency: float
    hop_latency_us: float
    source: str = ""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The machines: GPUs in use, how they sit in nodes, what joins and feeds them.

    Storage bandwidths are GB/s: per node, and of the file system as a whole.
    """

    name: str
    gpus: int
    gpus_per_node: int
    fabric: Fabric
    nic_gbps: float
    inlet_c: float = 22.5
    storage_gbs: float = 60.0
    node_storage_gbs: float = 2.5
    driver: str = "570.86.15"
    nccl: str = "2.27.3"
    host_prefix: str = "gpu"
    source: str = ""

    @property
    def nodes(self) -> int:
        """Number of nodes, the last one possibly not full."""
        return -(-self.gpus // self.gpus_per_node)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the model is trained.

    `gradient_precision` is what gradients are summed and reduced in (FP16 training keeps FP16).
    A run is `epochs` passes of `steps_per_epoch` steps over `unique_tokens` tokens.
    `continued_loss` is the base model's loss where the run continues from a checkpoint,
    else 0. `validation_interval_steps` 0 means at the end of each epoch only;
    `checkpoint_interval_steps` 0 means only when validation improved.
    """

    seq_len: int
    global_batch_size: int
    epochs: int
    steps_per_epoch: int
    precision: Precision = "bf16"
    gradient_precision: GradientPrecision = "fp32"
    schedule: Schedule = "cosine"
    peak_learning_rate: float = 3e-4
    min_learning_rate_ratio: float = 0.1
    warmup_steps: int = 100
    decay_frac: float = 0.2
    weight_decay: float = 0.1
    beta2: float = 0.95
    grad_clip: float = 1.0
    continued_loss: float = 0.0
    validation_interval_steps: int = 0
    validation_tokens: int = 2**23
    checkpoint_interval_steps: int = 0

    @property
    def total_steps(self) -> int:
        """Optimizer updates of the whole run."""
        return self.epochs * self.steps_per_epoch

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer update, all ranks together."""
        return self.global_batch_size * self.seq_len


@dataclass(frozen=True, slots=True)
class Stack:
    """The training software: which of the ways to run a layer it has.

    The defaults are those of a good stack of today (`catalog/stacks.toml` has others).

    Attributes:
        speed: Of its kernels and its scheduling against the best of the day, 0..1.
        moe_speed: Of routing, sorting and synchronising experts, likewise.
        flash_attention: Whether attention is one kernel that never writes its matrix of scores.
        native_kernels: Whether products and attention are made for the card's own generation
            (Transformer Engine, cuDNN, FlashAttention-3), not carried over from Ampere.
        sink_attention: Whether it knows attention sinks.
        fused_pointwise: Whether norms, activations and residuals are fused (or compiled).
        sequence_parallel: Whether tensor parallelism splits the pointwise work too.
        comm_overlap: Whether tensor-parallel and gradient traffic runs under compute.
        gather_overlap: Whether sharded optimizers' parameters are gathered under compute too.
        half_gradients: Whether BF16 gradients stay beside their fp32 sums (DeepSpeed's
            BF16_Optimizer).
        fused_loss: Whether the loss is one kernel, without fp32 copies of the logits.
    """

    name: str = "megatron-core"
    speed: float = 1.0
    moe_speed: float = 1.0
    flash_attention: bool = True
    native_kernels: bool = True
    sink_attention: bool = False
    fused_pointwise: bool = True
    sequence_parallel: bool = True
    comm_overlap: bool = True
    gather_overlap: bool = True
    half_gradients: bool = False
    fused_loss: bool = True
    note: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class ParallelRequest:
    """The parallel layout asked for; None leaves a degree to `plan()`.

    `shard_group` is the number of ranks that share one sharded copy of the states (hybrid
    sharding), 0 for all of them; `expert_tensor_parallel` cuts the experts' matrices.
    """

    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    data_parallel: int | None = None
    context_parallel: int | None = None
    expert_parallel: int | None = None
    expert_tensor_parallel: int | None = None
    virtual_stages: int | None = None
    micro_batch_size: int | None = None
    sharding: Sharding | None = None
    shard_group: int | None = None
    recompute: Recompute | None = None


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A kind of fault, one row of the catalogue.

    Times are drawn log-uniformly between a `_low` and a `_high`, log-normally about a `_median`
    with its `_sigma`; severities log-uniformly, in the unit of the effect (`Effect` says which).

    Attributes:
        scope: What breaks: one GPU, a node, a rack (nodes behind one switch or one cooling
            loop), or something all share.
        course: What it does to the run (see Course).
        family: Section of the taxonomy: gpu, nvlink, network, host, thermal, straggler, data,
            storage, software, training, benign.
        effect: What it changes while it lasts.
        sign: The counter that moves from the onset on.
        sign_per_hour: How fast it moves; a sign that comes once has 0.
        xids: Xid messages in the order of the kernel log.
        rate_per_1000_gpu_days: Published or estimated rate on Hopper and later.
        ampere_rate_per_1000_gpu_days: On Ampere and earlier, -1 for the same.
        published: Row of the published table of interruptions it is counted in, "" for none.
        lead_low_s, lead_high_s: From the first sign to the strike (crash) or to full effect.
        hang_share: Share of the strikes whose process hangs, so that the peers wait for the
            watchdog (0..1).
        detect_low_s, detect_high_s: From the strike to its detection, where no watchdog waits.
        severity_low, severity_high: Of the effect.
        duration_median_s: How long an effect lasts, 0 where something else ends it.
        recovery: What ends it (see Recovery).
        downtime_median_s: Of triage, drain, repair and queue until the next launch.
        takes_gpus: Whether its GPUs answer no more, from the strike until the next launch.
        benign: Whether nothing need be done: a lookalike for detectors.
    """

    name: str
    scope: FaultScope
    course: Course = "crash"
    family: str = ""
    title: str = ""
    effect: Effect = "none"
    sign: Sign = "none"
    sign_per_hour: float = 0.0
    xids: tuple[int, ...] = ()
    rate_per_1000_gpu_days: float = 0.0
    ampere_rate_per_1000_gpu_days: float = -1.0
    published: str = ""
    lead_low_s: float = 0.0
    lead_high_s: float = 0.0
    hang_share: float = 0.0
    detect_low_s: float = 1.0
    detect_high_s: float = 30.0
    severity_low: float = 0.0
    severity_high: float = 0.0
    duration_median_s: float = 0.0
    duration_sigma: float = 0.6
    recovery: Recovery = "swap"
    downtime_median_s: float = 0.0
    downtime_sigma: float = 0.4
    takes_gpus: bool = False
    benign: bool = False
    note: str = ""
    source: str = ""

    @property
    def interrupts(self) -> bool:
        """Whether it ends the launch it strikes (others may, once they are noticed)."""
        return self.course in ("crash", "hang", "stop")

    @property
    def ends_launch(self) -> bool:
        """Whether a launch ends with it: at once, at a save, or when the run is taken back."""
        return self.interrupts or self.recovery == "rollback" or self.effect == "full-storage"


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """One fault asked for; what is None is drawn.

    Attributes:
        at_s: Run time of the onset.
        gpu: Global index of a GPU; a node's or rack's fault takes all of the one that holds it.
        at_step: Where above 0 the onset is when this step is first in progress, not at `at_s`.
        severity: In the unit of the kind's effect.
        duration_s: How long the effect lasts.
    """

    kind: FaultKind
    at_s: float = 0.0
    gpu: int | None = None
    at_step: int = 0
    severity: float | None = None
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults of a run: some injected, some drawn at their rates."""

    injected: tuple[InjectedFault, ...] = ()
    drawn: tuple[FaultKind, ...] = ()
    watchdog_timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything that is asked of a run; with a seed it is the run.

    `start_unix_s` is the date of run time 0, `time_limit_s` ends a run that faults keep from
    finishing, `chosen` names the fields nobody asked for and a word on each, so that it can
    be shown. `notes` says what a launch file left open or had that is not rehearsed.
    """

    model: Model
    gpu: Gpu
    cluster: Cluster
    dataset: Dataset
    tokenizer: Tokenizer
    recipe: Recipe
    parallel: ParallelRequest = field(default_factory=ParallelRequest)
    stack: Stack = field(default_factory=Stack)
    faults: Faults = field(default_factory=Faults)
    start_unix_s: int = 1767225600  # 2026-01-01T00:00:00Z
    time_limit_s: float = 400 * 86400.0
    output_dir: str = "outputs"
    chosen: tuple[tuple[str, str], ...] = ()
    notes: tuple[tuple[str, str], ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Layout:
    """A parallel layout with every degree decided.

    Attributes:
        virtual_stages: Model chunks per pipeline stage (interleaved schedule), 1 for plain 1F1B.
        micro_batches: Micro-batches each data-parallel rank works through per step.
        sharding: "ddp" (all-reduce), "zero1" (optimizer sharded), "zero2" (gradients too),
            "fsdp" (everything).
        shard_group: Ranks that share one sharded copy of the states, 0 for all of them.
        expert_tensor_parallel: Degree that cuts the experts' matrices; a rank keeps whole
            experts where it is 1.
    """

    tensor_parallel: int
    pipeline_parallel: int
    context_parallel: int
    expert_parallel: int
    data_parallel: int
    virtual_stages: int
    micro_batch_size: int
    micro_batches: int
    sharding: Sharding
    recompute: Recompute
    shard_group: int = 0
    expert_tensor_parallel: int = 1

    @property
    def world_size(self) -> int:
        """GPUs the layout uses (experts live inside the data-parallel ranks)."""
        return (
            self.tensor_parallel
            * self.pipeline_parallel
            * self.context_parallel
            * self.data_parallel
        )
