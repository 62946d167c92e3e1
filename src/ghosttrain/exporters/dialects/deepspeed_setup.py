"""What a run asks of DeepSpeed: ZeRO's stage, the configuration, the trainer's arguments.

Sources: DeepSpeed 0.16.9, runtime/config.py and runtime/engine.py; microsoft/Megatron-DeepSpeed,
megatron/arguments.py, utils.py (throughput_calculator) and model/gpt_model.py (GPTModelPipe).
"""

from __future__ import annotations

from typing import Any

from ghosttrain.core.plan import Plan
from ghosttrain.core.spec import GATED_MLPS
from ghosttrain.exporters.dialects import megatron_arguments as megatron
from ghosttrain.exporters.dialects.megatron_arguments import Habits
from ghosttrain.exporters.dialects.megatron_model import (
    VOCAB_MULTIPLE,
    layers_of_stage,
    padded_vocab,
)

_STAGES = {"ddp": 0, "zero1": 1, "zero2": 2, "fsdp": 3}
_NAME_WIDTH = 29  # of the engine's configuration, name and dots
# Before the transformer's layers a conversion and the embedding, behind them the norm, the head and
# a conversion back.
_LAYERS_BEFORE = 2


def zero_stage(plan: Plan) -> int:
    """Stage of ZeRO that shards as much; a pipeline can only shard the optimizer."""
    stage = _STAGES[plan.layout.sharding]
    return min(stage, 1) if has_pipeline(plan) else stage


def has_pipeline(plan: Plan) -> bool:
    """Whether DeepSpeed's pipeline engine runs the model."""
    return plan.layout.pipeline_parallel > 1


def is_half(plan: Plan) -> bool:
    """Whether weights are computed in fp16, else in bf16."""
    return plan.spec.recipe.precision == "fp16"


def has_zero_files(plan: Plan) -> bool:
    """Whether the optimizer's states have files of their own."""
    return zero_stage(plan) > 0 or not is_half(plan)


def optimizer_name(plan: Plan) -> str:
    """Class of what wraps Adam."""
    stage = zero_stage(plan)
    if stage:
        return "DeepSpeedZeroOptimizer" if stage < _STAGES["fsdp"] else _STAGE_3
    return "FP16_Optimizer" if is_half(plan) else "BF16_Optimizer"


_STAGE_3 = "DeepSpeedZeroOptimizer_Stage3"


def flops_per_step(plan: Plan) -> float:
    """FLOPs of a step by the trainer's formula: hardware's work, recomputation included.

    It counts the whole attention matrix, the padded vocabulary, as many attention products as if
    heads were as wide as h / heads, and experts in every layer where there are any.
    """
    model, recipe = plan.spec.model, plan.spec.recipe
    h, seq_len = model.hidden_size, recipe.seq_len
    key_share = 2 // max(1, model.heads // max(1, model.kv_heads))
    width, active = model.ffn_hidden_size, 1
    if model.moe is not None:
        width, active = model.moe.ffn_hidden_size, model.moe.experts_active
    projections = model.layers * (1 + key_share + 1) * h * h * seq_len
    scores = model.layers * 2 * (h // model.heads) * model.heads * seq_len * seq_len
    matrices = 3 if model.mlp in GATED_MLPS else 2
    mlp = model.layers * matrices * width * h * seq_len * active
    forward = projections + scores + mlp + padded_vocab(plan) * h * seq_len
    again = {"none": 0, "selective": scores, "full": forward}[plan.layout.recompute]
    return 2.0 * recipe.global_batch_size * (3 * forward + again)


# ------------------------------------------------------------------------ what is printed of it


def argument_lines(plan: Plan, habits: Habits, log_interval: int) -> list[str]:
    """The trainer's arguments, those that a run decides."""
    layout, model, recipe = plan.layout, plan.spec.model, plan.spec.recipe
    moe = model.moe
    lowest = megatron.lowest_learning_rate(plan)
    values: dict[str, Any] = {
        "accumulate_allreduce_grads_in_fp32": False,
        "adam_beta1": megatron.BETA1,
        "adam_beta2": recipe.beta2,
        "adam_eps": megatron.EPSILON,
        "add_bias_linear": model.mlp_bias,
        "attention_dropout": 0.0,
        "bf16": not is_half(plan),
        "checkpoint_activations": layout.recompute == "full",
        "clip_grad": recipe.grad_clip,
        "consumed_train_samples": 0,
        "consumed_train_tokens": 0,
        "consumed_valid_samples": 0,
        "data_impl": "mmap",
        "data_parallel_size": layout.data_parallel,
        "data_path": [f"data/{plan.spec.dataset.name}_text_document"],
        "dataloader_type": "single",
        "deepspeed": True,
        "deepspeed_activation_checkpointing": layout.recompute == "full",
        "deepspeed_config": "ds_config.json",
        "distributed_backend": "nccl",
        "distributed_timeout_minutes": max(1, round(plan.spec.faults.watchdog_timeout_s / 60)),
        "ds_sequence_parallel_size": layout.context_parallel,
        "eval_interval": habits.eval_interval,
        "eval_iters": habits.eval_iters,
        "exit_interval": recipe.total_steps,
        "exit_signal_handler": True,
        "ffn_hidden_size": model.ffn_hidden_size,
        "fp16": is_half(plan),
        "global_batch_size": recipe.global_batch_size,
        "hidden_dropout": 0.0,
        "hidden_size": model.hidden_size,
        "iteration": 0,
        "kv_channels": model.head_dim,
        "load": habits.folder,
        "log_interval": log_interval,
        "loss_scale": None,
        "lr": recipe.peak_learning_rate,
        "lr_decay_iters": None,
        "lr_decay_style": recipe.schedule,
        "lr_warmup_iters": recipe.warmup_steps,
        "make_vocab_size_divisible_by": VOCAB_MULTIPLE,
        "max_position_embeddings": max(model.max_seq_len, recipe.seq_len),
        "micro_batch_size": layout.micro_batch_size,
        "min_lr": lowest,
        "moe_expert_parallel_size": layout.expert_parallel if moe else 1,
        "no_pipeline_parallel": not has_pipeline(plan),
        "normalization": "rmsnorm" if model.norm == "rmsnorm" else "layernorm",
        "num_attention_heads": model.heads,
        "num_experts": [moe.experts if moe else 1],
        "num_key_value_heads": model.kv_heads,
        "num_layers": model.layers,
        "optimizer": "adam",
        "padded_vocab_size": padded_vocab(plan),
        "params_dtype": megatron.params_dtype(plan),
        "pipeline_model_parallel_size": layout.pipeline_parallel,
        "rank": 0,
        "recompute_granularity": None if layout.recompute == "none" else layout.recompute,
        "save": habits.folder,
        "save_interval": habits.save_interval,
        "seed": megatron.RANDOM_SEED,
        "seq_length": recipe.seq_len,
        "sequence_parallel": layout.tensor_parallel > 1 and plan.spec.stack.sequence_parallel,
        "split": "99,1,0",
        "swiglu": model.mlp in GATED_MLPS,
        "tensor_model_parallel_size": layout.tensor_parallel,
        "tokenizer_model": model.tokenizer or plan.spec.tokenizer.name,
        "tokenizer_type": "HFTokenizer",
        "topk": moe.experts_active if moe else 1,
        "train_iters": recipe.total_steps,
        "transformer_impl": "local",
        "untie_embeddings_and_output_weights": not model.tied_embeddings,
        "use_rotary_position_embeddings": not model.learned_positions,
        "weight_decay": recipe.weight_decay,
        "world_size": layout.world_size,
        "zero_stage": zero_stage(plan),
    }
    return megatron.block_lines(values)


def configuration(plan: Plan, log_interval: int) -> list[str]:
    """What the engine prints of its configuration: name, dots, value."""
    layout, recipe = plan.layout, plan.spec.recipe
    scale = float(2**16) if is_half(plan) else 1
    values: dict[str, Any] = {
        "amp_enabled": False,
        "bfloat16_enabled": not is_half(plan),
        "checkpoint_parallel_write_pipeline": False,
        "communication_data_type": None,
        "dump_state": False,
        "fp16_auto_cast": False if is_half(plan) else None,
        "fp16_enabled": is_half(plan),
        "global_rank": 0,
        "gradient_accumulation_steps": layout.micro_batches,
        "gradient_clipping": recipe.grad_clip,
        "initial_dynamic_scale": int(scale),
        "load_universal_checkpoint": False,
        "loss_scale": 0 if is_half(plan) else 1.0,
        "memory_breakdown": False,
        "optimizer_name": None,
        "optimizer_params": None,
        "pld_enabled": False,
        "prescale_gradients": False,
        "scheduler_name": None,
        "scheduler_params": None,
        "sparse_attention": None,
        "steps_per_print": log_interval,
        "train_batch_size": recipe.global_batch_size,
        "train_micro_batch_size_per_gpu": layout.micro_batch_size,
        "wall_clock_breakdown": False,
        "world_size": layout.data_parallel,
        "zero_allow_untested_optimizer": False,
        "zero_enabled": zero_stage(plan) > 0,
        "zero_optimization_stage": zero_stage(plan),
    }
    return [f"  {name} {'.' * (_NAME_WIDTH - len(name))} {value}" for name, value in values.items()]


def configuration_file(plan: Plan, log_interval: int) -> str:
    """The file it was read from, as the engine prints it: `  json = {...}`."""
    layout, recipe = plan.layout, plan.spec.recipe
    half = (
        '"fp16": {\n        "enabled": true, \n        "loss_scale": 0, \n'
        '        "loss_scale_window": 2000, \n        "initial_scale_power": 16\n    }'
    )
    precision = half if is_half(plan) else '"bf16": {\n        "enabled": true\n    }'
    entries = (
        f'"train_batch_size": {recipe.global_batch_size}',
        f'"train_micro_batch_size_per_gpu": {layout.micro_batch_size}',
        f'"steps_per_print": {log_interval}',
        f'"zero_optimization": {{\n        "stage": {zero_stage(plan)}\n    }}',
        f'"gradient_clipping": {recipe.grad_clip}',
        '"prescale_gradients": false',
        precision,
        '"wall_clock_breakdown": false',
    )
    return "  json = {\n" + ", \n".join(f"    {entry}" for entry in entries) + "\n}"


def partition_lines(plan: Plan) -> list[str]:
    """What layers the pipeline's stages hold."""
    lines = []
    for stage in range(plan.layout.pipeline_parallel):
        first, count = stage_bounds(plan, stage)
        names = _pipeline_layers(plan)[first : first + count]
        lines.append(f"stage={stage} layers={count}")
        lines += [f"    {first + index:2d}: {name}" for index, name in enumerate(names)]
    return [*lines, "  loss: CrossEntropy"]


def stage_bounds(plan: Plan, stage: int) -> tuple[int, int]:
    """Number of a stage's first layer among all that the pipeline knows, and how many it has."""
    own = [len(layers_of_stage(plan, i)) for i in range(plan.layout.pipeline_parallel)]
    first = sum(own[:stage]) + (_LAYERS_BEFORE if stage else 0)
    end = sum(own[: stage + 1]) + _LAYERS_BEFORE
    is_last = stage == len(own) - 1
    return first, (len(_pipeline_layers(plan)) if is_last else end) - first


def _pipeline_layers(plan: Plan) -> list[str]:
    model = plan.spec.model
    return [
        "_to_float16",
        "EmbeddingPipe",
        *["ParallelTransformerLayerPipe"] * model.layers,
        "MixedFusedRMSNorm" if model.norm == "rmsnorm" else "LayerNorm",
        "EmbeddingPipe" if model.tied_embeddings else "LMHeadPipe",
        "float16_to_fp32",
    ]


def topology_line(plan: Plan) -> str:
    """Which rank stands where: pipeline stages outermost, tensor parallelism innermost."""
    layout = plan.layout
    stages, cuts = layout.pipeline_parallel, layout.tensor_parallel
    replicas = layout.world_size // (stages * cuts)
    places = (
        f"ProcessCoord(pipe={stage}, data={replica}, model={cut}): "
        f"{(stage * replicas + replica) * cuts + cut}"
        for stage in range(stages)
        for replica in range(replicas)
        for cut in range(cuts)
    )
    return f"Using topology: {{{', '.join(places)}}}"
