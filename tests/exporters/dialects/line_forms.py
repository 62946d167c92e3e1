"""Every line that the tools print, as regular expressions written from their sources.

Those of training, validation, checkpoints, timers, memory and failures are the published ones of
parsers of such logs; the others are the tools' format strings with their fields opened.
"""

from __future__ import annotations

import re

_F = r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?"  # a number as Python shows it
_E6 = r"\d\.\d{6}E[+-]\d\d"
_MICRO = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}"
_SECOND = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"

# ------------------------------------------------------------------------ failures

FAILURES = (
    r"[WE]\d{4} [\d:.]{15} \d+ \S*torch/distributed/elastic/multiprocessing/api\.py:\d+\] "
    r"(?:Sending process \d+ closing signal SIGTERM|failed \(exitcode: -?\d+\) local_rank: \d+ "
    r"\(pid: \d+\) of binary: \S+)",
    r"(?:\[rank\d+\]: )?Traceback \(most recent call last\):(?: \(RANK \d+\))?\s*",
    r'(?:\[rank\d+\]: )?  File "[^"]+", line \d+, in \S+',
    r"(?:\[rank\d+\]: )?    \S.*",
    r"(?:\[rank\d+\]: )?[\w.]+(?:Error|Exception|Warning|gaierror)\b.*",
    r"(?:\[rank\d+\]: )?(?:ncclRemoteError|ncclSystemError|ncclUnhandledCudaError|Last error|"
    r"NCCL error in|socketProgress: Connection closed|"
    r"CUDA kernel errors might|For debugging consider|Compile with|NET/IB ).*",
    r"\[rank\d+\]: ",
    r"={20,60}|-{20,60}",
    r"pretrain(?:_gpt)?\.py FAILED",
    r"Failures:|Root Cause \(first observed failure\):|\[\d+\]:|  <NO_OTHER_FAILURES>",
    r"  time      : \d{4}-\d\d-\d\d_\d\d:\d\d:\d\d",
    r"  host      : \S+",
    r"  rank      : \d+ \(local_rank: \d+\)",
    r"  exitcode  : -?\d+ \(pid: \d+\)",
    r"  error_file: \S+",
    r"  traceback : .+",
    r"\[rank\d+\]:\[[EWI]\d{3,4} [\d:.]{18} ProcessGroupNCCL\.cpp:\d+\] "
    r"\[(?:PG[^\]]*)?Rank \d+\] Watchdog caught collective operation timeout: "
    r"WorkNCCL\(SeqNum=\d+, OpType=\w+, NumelIn=\d+, NumelOut=\d+, Timeout\(ms\)=\d+\) ran for "
    r"\d+ milliseconds before timing out\.",
    r"\[rank\d+\]:\[[EWI]\d{3,4} [\d:.]{18} ProcessGroupNCCL\.cpp:\d+\] "
    r"\[(?:PG[^\]]*)?Rank \d+\] .+",
    r"\[rank\d+\]:\[[EWI]\d{3,4} [\d:.]{18} ProcessGroupNCCL\.cpp:\d+\] .+",
    r"\t - .+|\t   - .+",
    r"terminate called after throwing an instance of 'c10::DistBackendError'",
    r"  what\(\): .*",
    r"(?:\[[\d\- :.]+\] )?[\w.\-]+:\d+:\d+ \[\d+\] (?:[\w./]+:\d+ )?NCCL (?:INFO|WARN) .*",
    r"srun: error: (?:Node failure on \S+|\S+: tasks? [\d,\-]+: .+)",
    r"srun: Job step aborted: Waiting up to 62 seconds for job step to finish\.",
    r"srun: Force Terminated StepId=[\d.]+",
    r"slurmstepd: error: \*\*\* (?:JOB|STEP) [\d.]+ ON \S+ CANCELLED AT \S+ DUE .+ \*\*\*",
    r"slurmstepd: error: Detected \d+ oom_kill events? in StepId=[\d.]+\. "
    r"Some of the step tasks have been OOM Killed\.",
)

# ------------------------------------------------------------------------ Megatron-LM

_VALIDATION = (
    r"-{60,}",
    rf" validation loss at iteration \d+ \| lm loss value: (?:{_E6}|NAN) \| lm loss PPL: {_E6} \| ",
)
_ARGUMENTS = (
    r"------------------------ arguments ------------------------",
    r"-------------------- end of arguments ---------------------",
    r"  [a-zA-Z0-9_]+ \.+ .*",
)
_TIMER = r"    [\w\-/]+ \.*: \(\d+\.\d\d, \d+\.\d\d\)"
_COUNT = r" > number of parameters on \(tensor, pipeline\) model parallel rank \(\d+, \d+\): \d+"
_LOG = r"INFO:megatron\.core\."
_STATE = r"WARNING:megatron\.core\.rerun_state_machine:"

MEGATRON_STEP = (
    rf" \[(?P<ts>{_MICRO})\] iteration +(?P<it>\d+)/ *(?P<total>\d+) \| consumed samples: "
    r"+(?P<samples>\d+) \| elapsed time per iteration \(ms\): (?P<ms>\d+\.\d) \| "
    r"throughput per GPU \(TFLOP/s/GPU\): (?P<tflops>\d+\.\d) \| "
    rf"learning rate: (?P<lr>{_E6}) \| global batch size: +(?P<gbs>\d+) \|"
    rf"(?: lm loss: (?P<loss>{_E6}) \|)? loss scale: (?P<scale>\d+\.\d) \|"
    r"(?: grad norm: (?P<gn>\d+\.\d{3}) \|)? number of skipped iterations: +(?P<skipped>\d+) \| "
    r"number of nan iterations: +(?P<nan>\d+) \|"
)
_MEMORY = (
    r"\[Rank \d+\] \((?:after \d+ iterations|(?:before|after) save_checkpoint for iteration "
    r"\d+)\) memory \(MB\) \| allocated: \d+\.\d\d \| max allocated: \d+\.\d\d \| reserved: "
    r"\d+\.\d\d \| max reserved: \d+\.\d\d"
)
MEGATRON = (
    MEGATRON_STEP,
    *_VALIDATION,
    *_ARGUMENTS,
    _TIMER,
    _COUNT,
    _MEMORY,
    rf"\[{_MICRO}\] saving checkpoint at iteration [ \d]{{7}} to \S+ in (?:torch_dist|fsdp_dtensor)"
    r" format",
    r"Storing distributed optimizer sharded state of type (?:dp_reshardable|fsdp_dtensor)",
    rf"  \[{_MICRO}\] successfully saved checkpoint from iteration [ \d]{{7}} to \S+ "
    r"\[ t 1/\d+, p 1/\d+ \]",
    rf"{_LOG}timers:\(min, max\) time across ranks \(ms\):",
    r"using world size: \d+, data-parallel size: \d+, context-parallel size: \d+, "
    r"hierarchical context-parallel sizes: None, tensor-model-parallel size: \d+, "
    r"pipeline-model-parallel size: \d+",
    r"Number of virtual stages per pipeline stage: (?:None|\d+)",
    r"accumulate and all-reduce gradients in fp32 for bfloat16 data type\.",
    r"using torch\.(?:bfloat16|float16) for parameters \.\.\.",
    rf"{_LOG}tokenizers\.utils\.build_tokenizer: > padded vocab \(size: \d+\) with \d+ dummy "
    r"tokens \(new size: \d+\)",
    rf"{_STATE}RerunStateMachine initialized in mode RerunMode\.DISABLED",
    rf"{_STATE}Setting RerunStateMachine mode RerunMode\.DISABLED",
    r"> initializing torch distributed \.\.\.",
    r"> initialized (?:tensor|pipeline) model parallel with size \d+",
    r"> setting random seeds to \d+ \.\.\.",
    r"> compiling dataset index builder \.\.\.",
    r">>> done with dataset index builder\. Compilation time: \d+\.\d{3} seconds",
    r"time to initialize megatron \(seconds\): \d+\.\d{3}",
    rf"\[[\w ,\-]+\] datetime: {_MICRO} ?",
    r"building GPT model \.\.\.",
    rf"{_LOG}optimizer:Setting up optimizer with config OptimizerConfig\(.*\)",
    rf"{_LOG}optimizer_param_scheduler:> learning rate decay style: \w+",
    rf"{_LOG}optimizer_param_scheduler: > using checkpoint value \S+ for [\w ]+",
    r"WARNING: could not find the metadata file \S+/latest_checkpointed_iteration\.txt",
    r"    will not load any checkpoints and will start from random",
    r"Checkpoint file not found in load directory \S+ attempting to finetune with checkpoint in "
    r"\S+",
    r"sharded_state_dict metadata loaded from the checkpoint: \{.*\}",
    r" loading (?:release )?(?:distributed )?checkpoint from \S+(?: at iteration \d+)?",
    r" checkpoint version 3\.0",
    r"  successfully loaded checkpoint from \S+ \[ t 1/\d+, p 1/\d+ \] at iteration \d+",
    r"> building train, validation, and test datasets \.\.\.",
    r" > datasets target sizes \(minimum size\):",
    r"    (?:train:     |validation:|test:      ) \d+",
    rf"{_LOG}datasets\.blended_megatron_dataset_config:Let split_matrix = \[.*\]",
    r"> building train, validation, and test datasets for GPT \.\.\.",
    rf"{_LOG}datasets\.indexed_dataset:(?:Load the _IndexReader from \S+|\tExtract the "
    r"(?:sequence lengths|sequence pointers|document indices))",
    rf"{_LOG}datasets\.gpt_dataset:(?:(?:Build and save|Load) the GPTDataset (?:train|valid) "
    r"indices|\tLoad the \w+ index from \S+|> total number of (?:samples|epochs): \d+)",
    r"> finished creating GPT datasets \.\.\.",
    r"done with setup \.\.\.",
    r"training \.\.\.",
    r"Overwriting rerun_state_machine\.current_iteration from -1 to \d+\.\.\.",
    r"Number of (?:active )?parameters in transformer block in billions: {1,2}\d+\.\d\d",
    r"Number of parameters in embedding layers in billions: \d+\.\d\d",
    r"Total number of (?:active )?parameters in billions: \d+\.\d\d",
    r"Number of parameters in (?:most loaded shard|other shards) in billions: \d+\.\d{4}",
    r"compute_activation_memory(?:_without_sp| with SP)",
    r"Activation memory footprint per transformer layer(?: \(precise, without SP\))?: \d+\.\d MB",
    r"Memory penalty from interleaved schedule: \d+\.\d\d",
    r"Number of in-flight microbatches: \d+",
    r"Theoretical memory footprints: weight and optimizer=\d+\.\d\d MB, activation=\d+\.\d\d MB, "
    r"total=\d+\.\d\d MB",
    r"",
    rf"\[exiting program after receiving SIGTERM\.\] datetime: {_MICRO} ",
)

# ------------------------------------------------------------------------ DeepSpeed

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
    rf"(?: lm loss: (?P<loss>{_E6}) \|)? loss scale: (?P<scale>\d+\.\d) \|"
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
    *_VALIDATION,
    *_ARGUMENTS,
    _TIMER,
    _COUNT,
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
    rf"\[[\w ,\-]+\] datetime: {_SECOND} ",
    r"building GPT model \.\.\.",
    rf"{_INFO}\[utils\.py:781:see_memory_usage\] [\w \[\]:]+",
    rf"{_INFO}\[utils\.py:782:see_memory_usage\] MA {_F} GB {{9}}Max_MA {_F} GB {{9}}CA {_F} GB "
    r"{9}Max_CA \d+ GB ",
    rf"{_INFO}\[utils\.py:789:see_memory_usage\] CPU Virtual Memory:  used = {_F} GB, "
    rf"percent = {_F}%",
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
    rf"\[Rank \d+\] \(after \d+ iterations\) memory \(MB\) \| allocated: {_F} \| max allocated: "
    rf"{_F} \| reserved: {_F} \| max reserved: {_F}",
    r"saving checkpoint at iteration [ \d]{7} to \S+",
    rf"{_RANK_0}\[Torch\] Checkpoint global_step\d+ is about to be saved!",
    rf"{_RANK_0}Saving model checkpoint: \S+_model_states\.pt",
    rf"{_TORCH}21:save\] \[Torch\] Saving \S+\.pt\.\.\.",
    rf"{_TORCH}23:save\] \[Torch\] Saved \S+\.pt\.",
    rf"{_INFO}\[engine\.py:3701:_save_zero_checkpoint\] (?:bf16_)?zero checkpoint saved "
    r"\S+_optim_states\.pt",
    rf"{_TORCH}33:commit\] \[Torch\] Checkpoint global_step\d+ is ready now!",
    r"  successfully saved checkpoint at iteration [ \d]{7} to \S+",
    rf"\[exiting program after receiving SIGTERM\.\] datetime: {_SECOND} ",
)

# ------------------------------------------------------------------------ NeMo 2

NEMO_STEP = (
    r"Training epoch (?P<e>\d+), iteration (?P<i>\d+)/(?P<last>\d+) \| lr: (?P<lr>[\d.e+-]+) \| "
    r"global_batch_size: (?P<gbs>\d+) \| global_step: (?P<gs>\d+) \| "
    r"reduced_train_loss: (?P<loss>[\d.e+-]+|nan) \| train_step_timing in s: (?P<t>[\d.e+-]+)"
    r"(?: \| consumed_samples: (?P<samples>[\d.e+-]+))?(?: \| val_loss: (?P<val>[\d.e+-]+|nan))?"
)
_I, _W = rf"\[NeMo I {_SECOND} ", rf"\[NeMo W {_SECOND} "
NEMO = (
    NEMO_STEP,
    r"Validation: iteration \d+/\d+",
    r"GPU available: True \(cuda\), used: True",
    r"TPU available: False, using: 0 TPU cores",
    r"HPU available: False, using: 0 HPUs",
    rf"{_W}nemo_logging:405\] No version folders would be created under the log folder as "
    r"'resume_if_exists' is enabled\.",
    rf"{_I}nemo_logging:393\] Experiments will be logged at \S+",
    rf"{_W}nemo_logging:405\] There were no checkpoints found in checkpoint_dir or no checkpoint "
    r"folder at checkpoint_dir :\S+\. Training from scratch\.",
    rf"{_I}nemo_logging:393\] FSDP option is set to MCore\. Using MCore's Custom FSDP for DP\.",
    rf"{_I}nemo_logging:393\] Ranks? 0 has [\w ]+(?: ?: ?)?(?:\d+|\[[\d, ]+\])",
    rf"{_I}nemo_logging:393\] All [\w ]+: \[\[[\d, \[\]]+\]\]",
    r"Initializing distributed: GLOBAL_RANK: 0, MEMBER: 1/\d+",
    r"-{100}",
    r"distributed_backend=nccl",
    r"All distributed processes registered\. Starting with \d+ processes",
    r"",
    rf"{_I}num_microbatches_calculator:228\] setting number of microbatches to constant \d+",
    rf"{_I}utils:302\] (?:Load the _IndexReader from \S+|\tExtract the (?:sequence lengths|"
    r"sequence pointers|document indices)|Load the GPTDataset (?:train|valid) indices|\tLoad the "
    r"\w+ index from \S+\.npy|> total number of samples: \d+)",
    rf"{_I}nemo_logging:393\] Padded vocab_size: \d+, original vocab_size: \d+, dummy tokens: "
    r"\d+\.",
    rf"{_I}nemo_logging:393\] Copying Trainer's 'max_steps' \(\d+\) to LR scheduler's "
    r"'max_steps'\.",
    rf"{_I}nemo_logging:393\]  > number of parameters on \(tensor, pipeline\) model parallel rank "
    r"\(\d+ ,\d+\): \d+",
    rf"{_I}utils:302\] Setting up DistributedDataParallel with config "
    r"DistributedDataParallelConfig\(.*\)",
    rf"{_I}utils:302\] Setting up optimizer with config OptimizerConfig\(.*\)",
    r"  \| Name   \| Type \| Params +\| Mode ",
    r"-{40,}",
    r"0 \| module \| DDP  \| [\d.,]+ [ KMBT] *\| train",
    r"[\d.,]+ [ KMBT] *(?:Trainable|Non-trainable|Total) params",
    r"[\d,]+\.\d{3} *Total estimated model params size \(MB\)",
    r"\d+ +Modules in (?:train|eval) mode",
    rf"{_W}rerun_state_machine:1264\] Implicit initialization of Rerun State Machine!",
    rf"{_W}rerun_state_machine:239\] RerunStateMachine initialized in mode RerunMode\.DISABLED",
    rf"{_I}nemo_logging:393\] Using FullyParallelSaveStrategyWrapper\(torch_dist, 1\) dist-ckpt "
    r"save strategy\.",
    rf"{_I}nemo_logging:393\] Using <[\w.]+\.FullyParallelLoadStrategyWrapper object at "
    r"0x[0-9a-f]+> dist-ckpt load strategy\.",
    rf"{_I}nemo_logging:393\] Global Checkpoint Save : Rank: 0 : Iteration: \d+ : Start time: "
    r"\d+\.\d{3}s : Save duration: \d+\.\d{3}s",
    rf"{_I}nemo_logging:393\] Successfully saved checkpoint from iteration [ \d]{{7}} to \S+",
    rf"{_I}nemo_logging:393\] Global Checkpoint Load : Rank : 0 : Start time : \d+\.\d{{3}}s : "
    r"Time spent in load_checkpoint: \d+\.\d{3}s",
    r"Restoring states from the checkpoint path at \S+",
    r"Restored all states from the checkpoint at \S+",
    rf"{_I}nemo_logging:393\] (?:Doing selective restore|Restoring model weights|Finished "
    r"restoring) from RestoreConfig\(.*\)(?:, cleaning up\.)?",
    rf"{_I}nemo_logging:393\] Received signal 15, initiating graceful stop",
    rf"{_I}nemo_logging:393\] Preemption detected, saving checkpoint and exiting",
    r"`Trainer\.fit` stopped: `max_steps=\d+` reached\.",
)

FORMS = {
    name: re.compile(
        "|".join(
            f"(?:{_unnamed})"
            for _unnamed in (re.sub(r"\(\?P<\w+>", "(?:", form) for form in (*own, *FAILURES))
        )
    )
    for name, own in (("megatron", MEGATRON), ("deepspeed", DEEPSPEED), ("nemo", NEMO))
}


def strangers(name: str, text: str) -> list[str]:
    """Lines that the tool never prints."""
    form = FORMS[name]
    return [line for line in text.split("\n")[:-1] if not form.fullmatch(line)]
