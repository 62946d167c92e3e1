"""DeepSpeed 0.16.9 under Megatron-DeepSpeed."""

from __future__ import annotations

from tests.exporters.dialects.grammar.shared import (
    ARGUMENTS,
    COUNT,
    E6,
    FLOAT,
    SECOND,
    TIMER,
    VALIDATION,
)

DEEPSPEED_OWN = (
    r"\[(?P<ts>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3})\] \[(?P<lvl>\w+)\] "
    r"\[(?P<site>\w+\.py:\d+:\w+)\] (?:\[Rank (?P<rank>-?\d+)\] )?"
    r"(?:step=(?P<step>\d+), skipped=(?P<sk>\d+), lr=(?P<lr>\[.*?\]), mom=(?P<mom>\[.*\])"
    r"|epoch=\d+/micro_step=(?P<micro>\d+)/global_step=(?P<g>\d+), "
    r"RunningAvgSamplesPerSec=(?P<avg>[\d.]+), CurrSamplesPerSec=(?P<cur>[\d.]+), "
    r"MemAllocated=(?P<mem>[\d.]+)GB, MaxMemAllocated=(?P<max>[\d.]+)GB)"
)
DEEPSPEED_TRAINER = (
    r" iteration +(?P<it>\d+)/ *(?P<total>\d+) \| consumed samples: +(?P<samples>\d+) \| "
    r"consumed tokens: +(?P<tokens>\d+) \| elapsed time per iteration \(ms\): (?P<ms>\d+\.\d) \| "
    r"learning rate: (?P<lr>\d\.\d{3}E[+-]\d\d) \| global batch size: +(?P<gbs>\d+) \|"
    rf"(?: lm loss: (?P<loss>{E6}) \|)? loss scale: (?P<scale>\d+\.\d) \|"
    r"(?: grad norm: (?P<gn>\d+\.\d{3}|nan) \| num zeros: 0\.0 \|)? actual seqlen: +\d+ \| "
    r"number of skipped iterations: +0 \| number of nan iterations: +0 \| "
    r"samples per second: (?P<per_s>\d+\.\d{3}) \| "
    r"tokens per gpu per second \(tgs\): (?P<tgs>\d+\.\d{3}) \| TFLOPs: (?P<tflops>\d+\.\d\d) \|"
)
DEEPSPEED_PIPELINE = (
    r"steps: (?P<step>\d+) loss: (?P<loss>\d+\.\d{4}|nan) iter time \(s\): (?P<s>\d+\.\d{3}) "
    r"samples/sec: (?P<per_s>\d+\.\d{3})"
)
_INFO = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\] \[INFO\] "
_RANK_0 = rf"{_INFO}\[logging\.py:107:log_dist\] \[Rank 0\] "
_TORCH = rf"{_INFO}\[torch_checkpoint_engine\.py:"
DEEPSPEED = (
    DEEPSPEED_OWN,
    DEEPSPEED_TRAINER,
    DEEPSPEED_PIPELINE,
    *VALIDATION,
    *ARGUMENTS,
    TIMER,
    COUNT,
    r"\(min, max\) time across ranks \(ms\):",
    rf"{_INFO}\[real_accelerator\.py:254:get_accelerator\] Setting ds_accelerator to cuda "
    r"\(auto detect\)",
    r"using world size: \d+, data-parallel-size: \d+, sequence-parallel size: \d+, "
    r"tensor-model-parallel size: \d+, pipeline-model-parallel size: \d+ ",
    r"using torch\.(?:bfloat16|float16) for parameters \.\.\.",
    r"> building HFTokenizer tokenizer \.\.\.",
    r" > padded vocab \(size: \d+\) with \d+ dummy tokens \(new size: \d+\)",
    r"> initializing torch distributed \.\.\.",
    rf"{_INFO}\[comm\.py:669:init_distributed\] cdb=None",
    rf"{_INFO}\[comm\.py:700:init_distributed\] Initializing TorchBackend in DeepSpeed with "
    r"backend nccl",
    r"> initialized (?:tensor|pipeline) model parallel with size \d+",
    r"> setting random seeds to \d+ \.\.\.",
    r"> compiling (?:dataset index builder|and loading fused kernels) \.\.\.",
    r">>> done with (?:dataset index builder|compiling and loading fused kernels)\. Compilation "
    r"time: \d+\.\d{3} seconds",
    r"time to initialize megatron \(seconds\): \d+\.\d{3}",
    rf"\[[\w ,\-]+\] datetime: {SECOND} ",
    r"building GPT model \.\.\.",
    rf"{_INFO}\[utils\.py:781:see_memory_usage\] [\w \[\]:]+",
    rf"{_INFO}\[utils\.py:782:see_memory_usage\] MA {FLOAT} GB {{9}}Max_MA {FLOAT} GB {{9}}"
    rf"CA {FLOAT} GB {{9}}Max_CA \d+ GB ",
    rf"{_INFO}\[utils\.py:789:see_memory_usage\] CPU Virtual Memory:  used = {FLOAT} GB, "
    rf"percent = {FLOAT}%",
    r"SEED_LAYERS=False BASE_SEED=\d+ SEED_FN=None",
    r"Using topology: \{ProcessCoord\(pipe=0, data=0, model=0\): 0.*\}",
    rf"{_INFO}\[module\.py:398:_partition_layers\] Partitioning pipeline stages with method "
    r"type:transformer",
    r"stage=\d+ layers=\d+",
    r"    [ \d]{2,}: (?:_to_float16|EmbeddingPipe|ParallelTransformerLayerPipe|MixedFusedRMSNorm|"
    r"LayerNorm|LMHeadPipe|float16_to_fp32)",
    r"  loss: CrossEntropy",
    r"> learning rate decay style: \w+",
    r"DeepSpeed is enabled\.",
    rf"{_RANK_0}DeepSpeed info: version=0\.16\.9, git-hash=unknown, git-branch=unknown",
    rf"{_INFO}\[config\.py:735:__init__\] Config mesh_device None world_size = \d+",
    rf"{_RANK_0}DeepSpeed Flops Profiler Enabled: False",
    rf"{_RANK_0}Using client Optimizer as basic optimizer",
    rf"{_RANK_0}Removing param_group that has no 'params' in the basic Optimizer",
    rf"{_RANK_0}DeepSpeed (?:Basic|Final) Optimizer = \w+",
    rf"{_INFO}\[utils\.py:59:is_zero_supported_optimizer\] Checking ZeRO support for "
    r"optimizer=FusedAdam type=<class 'apex\.optimizers\.fused_adam\.FusedAdam'>",
    rf"{_RANK_0}Creating (?:torch\.\w+ ZeRO stage \d optimizer|BF16 optimizer|fp16 optimizer with "
    r"dynamic loss scale|fp16 ZeRO stage 3 optimizer, MiCS is enabled False, Hierarchical params "
    r"gather False)",
    rf"{_INFO}\[stage_1_and_2\.py:15\d:__init__\] (?:(?:Reduce|Allgather) bucket size \d+|CPU "
    r"Offload: False|Round robin gradient partitioning: False)",
    rf"{_INFO}\[stage3\.py:17\d:__init__\] (?:Reduce|Prefetch) bucket size \d+",
    rf"{_INFO}\[stage(?:_1_and_2\.py:557:__init__|3\.py:534:_setup_for_real_optimizer)\] "
    r"optimizer state initialized",
    rf"{_RANK_0}DeepSpeed using client LR scheduler",
    rf"{_RANK_0}DeepSpeed LR Scheduler = <[\w.]+ object at 0x[0-9a-f]+>",
    rf"{_INFO}\[config\.py:1003:print\] DeepSpeedEngine configuration:",
    rf"{_INFO}\[config\.py:1007:print\]   \w+ \.* \S+",
    rf"{_INFO}\[config\.py:993:print_user_config\]   json = \{{",
    r'    "\w+": (?:[\w.]+|\{)(?:, )?',
    r'        "\w+": [\w.]+(?:, )?',
    r"    \}(?:, )?|\}",
    rf"{_INFO}\[engine\.py:105:__init__\] CONFIG: micro_batches=\d+ micro_batch_size=\d+",
    rf"{_INFO}\[engine\.py:146:__init__\] is_pipe_partitioned= False is_grad_partitioned= False",
    rf"{_INFO}\[engine\.py:165:__init__\] RANK=\d+ STAGE=\d+ LAYERS=\d+ \[\d+, \d+\) "
    r"STAGE_PARAMS=\d+ \(\d+\.\d{3}M\) TOTAL_PARAMS=\d+ \(\d+\.\d{3}M\) UNIQUE_PARAMS=\d+ "
    r"\(\d+\.\d{3}M\)",
    r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\] \[WARNING\] \[engine\.py:2970:load_checkpoint\] "
    r"Unable to find latest file at \S+/latest, if trying to load latest checkpoint please ensure "
    r"this file exists or pass an explicit checkpoint tag when loading a checkpoint\.",
    r"WARNING: could not find the metadata file \S+ ",
    r"    will not load any checkpoints and will start from random",
    rf"{_TORCH}27:load\] \[Torch\] Loading checkpoint from \S+\.\.\.",
    rf"{_TORCH}29:load\] \[Torch\] Loaded checkpoint from \S+\.pt\.",
    rf"{_INFO}\[engine\.py:3241:_get_all_zero_checkpoint_state_dicts\] successfully read \d+ ZeRO "
    r"state_dicts for rank 0",
    rf"{_INFO}\[engine\.py:3191:_load_zero_checkpoint\] loading \d+ zero partition checkpoints "
    r"for rank 0",
    r" checkpoint version 3\.0",
    r"  successfully loaded checkpoint from \S+ at iteration \d+",
    r"> building train, validation, and test datasets(?: for GPT)? \.\.\.",
    r" > datasets target sizes \(minimum size\):",
    r"    (?:train:     |validation:|test:      ) \d+",
    r" > building dataset index \.\.\.",
    r"    reading (?:sizes|pointers|document index)\.\.\.",
    r"    creating (?:numpy buffer of mmap|memory view of numpy buffer)\.\.\.",
    r" > finished creating indexed dataset in \d+\.\d{6} seconds",
    r" > loading (?:doc|sample|shuffle)-idx mapping from \S+\.npy",
    r"    loaded indexed file in \d+\.\d{3} seconds",
    r"    total number of (?:samples|epochs): \d+",
    r"> finished creating GPT datasets \.\.\.",
    r"done with setup \.\.\.",
    r"training \.\.\.",
    rf"\[Rank \d+\] \(after \d+ iterations\) memory \(MB\) \| allocated: {FLOAT} \| max allocated: "
    rf"{FLOAT} \| reserved: {FLOAT} \| max reserved: {FLOAT}",
    r"saving checkpoint at iteration [ \d]{7} to \S+",
    rf"{_RANK_0}\[Torch\] Checkpoint global_step\d+ is about to be saved!",
    rf"{_RANK_0}Saving model checkpoint: \S+_model_states\.pt",
    rf"{_TORCH}21:save\] \[Torch\] Saving \S+\.pt\.\.\.",
    rf"{_TORCH}23:save\] \[Torch\] Saved \S+\.pt\.",
    rf"{_INFO}\[engine\.py:3701:_save_zero_checkpoint\] (?:bf16_)?zero checkpoint saved "
    r"\S+_optim_states\.pt",
    rf"{_TORCH}33:commit\] \[Torch\] Checkpoint global_step\d+ is ready now!",
    r"  successfully saved checkpoint at iteration [ \d]{7} to \S+",
    rf"\[exiting program after receiving SIGTERM\.\] datetime: {SECOND} ",
)
