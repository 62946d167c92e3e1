"""Megatron-LM core_v0.17.0."""

from __future__ import annotations

from tests.exporters.dialects.grammar.shared import ARGUMENTS, COUNT, E6, MICRO, TIMER, VALIDATION

_LOG = r"INFO:megatron\.core\."
_STATE = r"WARNING:megatron\.core\.rerun_state_machine:"

MEGATRON_STEP = (
    rf" \[(?P<ts>{MICRO})\] iteration +(?P<it>\d+)/ *(?P<total>\d+) \| consumed samples: "
    r"+(?P<samples>\d+) \| elapsed time per iteration \(ms\): (?P<ms>\d+\.\d) \| "
    r"throughput per GPU \(TFLOP/s/GPU\): (?P<tflops>\d+\.\d) \| "
    rf"learning rate: (?P<lr>{E6}) \| global batch size: +(?P<gbs>\d+) \|"
    rf"(?: lm loss: (?P<loss>{E6}) \|)? loss scale: (?P<scale>\d+\.\d) \|"
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
    *VALIDATION,
    *ARGUMENTS,
    TIMER,
    COUNT,
    _MEMORY,
    rf"\[{MICRO}\] saving checkpoint at iteration [ \d]{{7}} to \S+ in (?:torch_dist|fsdp_dtensor)"
    r" format",
    r"Storing distributed optimizer sharded state of type (?:dp_reshardable|fsdp_dtensor)",
    rf"  \[{MICRO}\] successfully saved checkpoint from iteration [ \d]{{7}} to \S+ "
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
    rf"\[[\w ,\-]+\] datetime: {MICRO} ?",
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
    rf"\[exiting program after receiving SIGTERM\.\] datetime: {MICRO} ",
)
