"""NeMo 2 (2.4.0)."""

from __future__ import annotations

from tests.exporters.dialects.grammar.shared import SECOND

NEMO_STEP = (
    r"Training epoch (?P<e>\d+), iteration (?P<i>\d+)/(?P<last>\d+) \| lr: (?P<lr>[\d.e+-]+) \| "
    r"global_batch_size: (?P<gbs>\d+) \| global_step: (?P<gs>\d+) \| "
    r"reduced_train_loss: (?P<loss>[\d.e+-]+|nan) \| train_step_timing in s: (?P<t>[\d.e+-]+)"
    r"(?: \| consumed_samples: (?P<samples>[\d.e+-]+))?(?: \| val_loss: (?P<val>[\d.e+-]+|nan))?"
)
_I, _W = rf"\[NeMo I {SECOND} ", rf"\[NeMo W {SECOND} "
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
