"""The arguments of a launch as Megatron-LM prints them.

Of the several hundred it has, those that a run decides; all others would stand at their defaults.
Source: NVIDIA/Megatron-LM core_v0.17.0, megatron/training/arguments.py (names, _print_args).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ghosttrain.core.plan import Plan
from ghosttrain.core.spec import GATED_MLPS, Layout, Model
from ghosttrain.exporters.dialects.megatron_model import VOCAB_MULTIPLE, is_moe_layer, padded_vocab

_WIDTH = 48  # name and dots
RANDOM_SEED = 1234  # --seed, its default
EPSILON = 1e-8  # --adam-eps, its default
BETA1 = 0.9


@dataclass(frozen=True, slots=True)
class Habits:
    """How Megatron is asked to work, where more than one way would do.

    Attributes:
        folder: Where checkpoints go, and are looked for.
        eval_interval, save_interval: Steps between validations and checkpoints.
        eval_iters: Batches of a validation.
    """

    folder: str
    eval_interval: int
    save_interval: int
    eval_iters: int


def habits_of(plan: Plan, folder: str) -> Habits:
    """As the recipe has it; what is saved when validation improves has validation's interval."""
    recipe = plan.spec.recipe
    every = recipe.validation_interval_steps or recipe.steps_per_epoch
    return Habits(
        folder=folder,
        eval_interval=every,
        save_interval=recipe.checkpoint_interval_steps or every,
        eval_iters=max(1, round(recipe.validation_tokens / recipe.tokens_per_step)),
    )


def is_torch_fsdp2(plan: Plan) -> bool:
    """Whether full sharding is PyTorch's own, not Megatron's: what its assertions allow."""
    layout, model = plan.layout, plan.spec.model
    return (
        layout.sharding == "fsdp"
        and layout.pipeline_parallel == layout.expert_parallel == 1
        and not model.tied_embeddings
        and plan.spec.recipe.precision != "fp16"
    )


def is_megatron_fsdp(plan: Plan) -> bool:
    """Whether full sharding is Megatron's own."""
    return plan.layout.sharding == "fsdp" and not is_torch_fsdp2(plan)


def checkpoint_format(plan: Plan) -> str:
    """`torch_dist`; Megatron's own full sharding has another."""
    return "fsdp_dtensor" if is_megatron_fsdp(plan) else "torch_dist"


def has_distributed_optimizer(plan: Plan) -> bool:
    """Whether the optimizer's states are sharded."""
    return plan.layout.sharding in ("zero1", "zero2") or is_megatron_fsdp(plan)


def params_dtype(plan: Plan) -> str:
    """What weights are computed in."""
    return "torch.float16" if plan.spec.recipe.precision == "fp16" else "torch.bfloat16"


def lowest_learning_rate(plan: Plan) -> float:
    """--min-lr as people give it: without the last bits of a product."""
    recipe = plan.spec.recipe
    return float(f"{recipe.peak_learning_rate * recipe.min_learning_rate_ratio:.12g}")


def decay_style(plan: Plan) -> str:
    """--lr-decay-style."""
    schedule = plan.spec.recipe.schedule
    return schedule.upper() if schedule == "wsd" else schedule


def optimizer_text(plan: Plan) -> str:
    """The configuration of the optimizer, as Python shows a record."""
    recipe = plan.spec.recipe
    is_half = recipe.precision == "fp16"
    return (
        f"OptimizerConfig(lr={recipe.peak_learning_rate!r}, min_lr={lowest_learning_rate(plan)!r}, "
        "decoupled_lr=None, decoupled_min_lr=None, "
        f"weight_decay={recipe.weight_decay!r}, fp16={is_half}, bf16={not is_half}, "
        f"params_dtype={params_dtype(plan)}, optimizer='adam', "
        f"loss_scale={None if is_half else 1.0}, adam_beta1={BETA1}, "
        f"adam_beta2={recipe.beta2!r}, adam_eps={EPSILON}, "
        f"use_distributed_optimizer={has_distributed_optimizer(plan)}, "
        f"clip_grad={recipe.grad_clip!r}, log_num_zeros_in_grad=False)"
    )


def argument_lines(plan: Plan, habits: Habits, log_interval: int) -> list[str]:
    """The block of arguments."""
    return block_lines(_arguments(plan, habits, log_interval))


def block_lines(values: Mapping[str, Any]) -> list[str]:
    """A block of arguments, sorted whatever their case."""
    lines = [f"  {name} {'.' * (_WIDTH - len(name))} {value}" for name, value in values.items()]
    return [
        "------------------------ arguments ------------------------",
        *sorted(lines, key=str.lower),
        "-------------------- end of arguments ---------------------",
    ]


def _arguments(plan: Plan, habits: Habits, log_interval: int) -> Mapping[str, Any]:
    return {
        **_model_arguments(plan),
        **_moe_arguments(plan.spec.model, plan.layout),
        **_latent_arguments(plan.spec.model),
        **_layout_arguments(plan),
        **_precision_arguments(plan),
        **_recipe_arguments(plan),
        **_course_arguments(plan, habits, log_interval),
    }


def _model_arguments(plan: Plan) -> dict[str, Any]:
    model = plan.spec.model
    is_grouped = model.mla is None and model.kv_heads != model.heads
    return {
        "add_bias_linear": model.mlp_bias,
        "add_position_embedding": True,
        "add_qkv_bias": model.qkv_bias,
        "apply_layernorm_1p": False,
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": False,
        "ffn_hidden_size": model.ffn_hidden_size,
        "group_query_attention": is_grouped,
        "hidden_dropout": 0.0,
        "hidden_size": model.hidden_size,
        "init_method_std": 0.02,
        "kv_channels": model.head_dim,
        "make_vocab_size_divisible_by": VOCAB_MULTIPLE,
        "max_position_embeddings": max(model.max_seq_len, plan.spec.recipe.seq_len),
        "mtp_num_layers": None,
        "multi_latent_attention": model.mla is not None,
        "normalization": "RMSNorm" if model.norm == "rmsnorm" else "LayerNorm",
        "num_attention_heads": model.heads,
        "num_layers": model.layers,
        "num_query_groups": model.kv_heads if is_grouped else model.heads,
        "padded_vocab_size": padded_vocab(plan),
        "position_embedding_type": "learned_absolute" if model.learned_positions else "rope",
        "qk_layernorm": model.qk_norm != "none",
        "seq_length": plan.spec.recipe.seq_len,
        "squared_relu": model.mlp == "relu2",
        "swiglu": model.mlp in GATED_MLPS,
        "tokenizer_model": model.tokenizer or plan.spec.tokenizer.name,
        "tokenizer_type": "HuggingFaceTokenizer",
        "transformer_impl": "transformer_engine" if plan.spec.stack.native_kernels else "local",
        "untie_embeddings_and_output_weights": not model.tied_embeddings,
        "vocab_size": None,
    }


def _moe_arguments(model: Model, layout: Layout) -> dict[str, Any]:
    moe = model.moe
    if moe is None:
        return {"expert_model_parallel_size": 1, "num_experts": None}
    pattern = [int(is_moe_layer(model, layer)) for layer in range(model.layers)]
    return {
        "expert_model_parallel_size": layout.expert_parallel,
        "expert_tensor_parallel_size": layout.expert_tensor_parallel,
        "moe_ffn_hidden_size": moe.ffn_hidden_size,
        "moe_grouped_gemm": True,
        "moe_layer_freq": 1 if all(pattern) else pattern,
        # Without auxiliary losses, as the run has none: nothing of them is printed.
        "moe_aux_loss_coeff": 0.0,
        "moe_router_load_balancing_type": "none",
        "moe_router_topk": moe.experts_active,
        "moe_shared_expert_intermediate_size": moe.shared_ffn_hidden_size or None,
        "moe_token_dispatcher_type": "alltoall",
        "moe_z_loss_coeff": None,
        "num_experts": moe.experts,
    }


def _latent_arguments(model: Model) -> dict[str, Any]:
    mla = model.mla
    if mla is None:
        return {}
    return {
        "kv_lora_rank": mla.kv_lora_rank,
        "q_lora_rank": mla.q_lora_rank or None,
        "qk_head_dim": mla.qk_nope_head_dim,
        "qk_pos_emb_head_dim": mla.qk_rope_head_dim,
        "v_head_dim": mla.v_head_dim,
    }


def _layout_arguments(plan: Plan) -> dict[str, Any]:
    layout, stack = plan.layout, plan.spec.stack
    chunks = layout.virtual_stages if layout.virtual_stages > 1 else None
    overlaps = stack.comm_overlap and layout.data_parallel > 1 and layout.sharding != "fsdp"
    recompute = None if layout.recompute == "none" else layout.recompute
    is_full = recompute == "full"
    return {
        "context_parallel_size": layout.context_parallel,
        "cp_comm_type": ["p2p"],
        "data_parallel_random_init": False,
        "data_parallel_sharding_strategy": (
            "optim_grads_params" if is_megatron_fsdp(plan) else "no_shard"
        ),
        "data_parallel_size": layout.data_parallel,
        "distributed_backend": "nccl",
        "distributed_timeout_minutes": max(1, round(plan.spec.faults.watchdog_timeout_s / 60)),
        "global_batch_size": plan.spec.recipe.global_batch_size,
        "hierarchical_context_parallel_sizes": None,
        "micro_batch_size": layout.micro_batch_size,
        "num_distributed_optimizer_instances": 1,
        "overlap_grad_reduce": overlaps,
        "overlap_p2p_comm": chunks is not None,
        "overlap_param_gather": overlaps and has_distributed_optimizer(plan),
        "pipeline_model_parallel_size": layout.pipeline_parallel,
        "rank": 0,
        "recompute_granularity": recompute,
        "recompute_method": "uniform" if is_full else None,
        "recompute_num_layers": 1 if is_full else None,
        "sequence_parallel": layout.tensor_parallel > 1 and stack.sequence_parallel,
        "tensor_model_parallel_size": layout.tensor_parallel,
        "use_distributed_optimizer": has_distributed_optimizer(plan),
        "use_megatron_fsdp": is_megatron_fsdp(plan),
        "use_torch_fsdp2": is_torch_fsdp2(plan),
        "virtual_pipeline_model_parallel_size": chunks,
        "world_size": layout.world_size,
    }


def _precision_arguments(plan: Plan) -> dict[str, Any]:
    precision = plan.spec.recipe.precision
    is_half = precision == "fp16"
    in_fp32 = plan.spec.recipe.gradient_precision == "fp32" and not is_half
    return {
        "accumulate_allreduce_grads_in_fp32": in_fp32,
        "attention_backend": "AttnBackend.auto",
        "bf16": not is_half,
        # Steps whose loss is no number are skipped and counted; the check would end the run.
        "check_for_nan_in_loss_and_grad": False,
        "fp16": is_half,
        "fp4": "e2m1" if precision == "nvfp4" else None,
        "fp8": "hybrid" if precision in ("fp8", "mxfp8") else None,
        "fp8_recipe": "mxfp8" if precision == "mxfp8" else "delayed",
        "hysteresis": 2,
        "initial_loss_scale": float(2**16) if is_half else float(2**32),
        "loss_scale": None if is_half else 1.0,
        "loss_scale_window": 2000.0 if is_half else 1000.0,
        "main_grads_dtype": "torch.float32" if in_fp32 else params_dtype(plan),
        "min_loss_scale": 1.0,
        "params_dtype": params_dtype(plan),
        "rerun_mode": "disabled",
    }


def _recipe_arguments(plan: Plan) -> dict[str, Any]:
    recipe = plan.spec.recipe
    decay = decay_style(plan)
    wsd_steps = round(recipe.decay_frac * recipe.total_steps) if decay == "WSD" else None
    return {
        "adam_beta1": BETA1,
        "adam_beta2": recipe.beta2,
        "adam_eps": EPSILON,
        "clip_grad": recipe.grad_clip,
        "decoupled_lr": None,
        "end_weight_decay": recipe.weight_decay,
        "lr": recipe.peak_learning_rate,
        "lr_decay_iters": None,
        "lr_decay_style": decay,
        "lr_warmup_fraction": None,
        "lr_warmup_init": 0.0,
        "lr_warmup_iters": recipe.warmup_steps,
        "lr_wsd_decay_iters": wsd_steps,
        "lr_wsd_decay_style": "linear",
        "min_lr": lowest_learning_rate(plan),
        "optimizer": "adam",
        "start_weight_decay": recipe.weight_decay,
        "train_iters": recipe.total_steps,
        "train_samples": None,
        "weight_decay": recipe.weight_decay,
        "weight_decay_incr_style": "constant",
    }


def _course_arguments(plan: Plan, habits: Habits, log_interval: int) -> dict[str, Any]:
    dataset = plan.spec.dataset.name
    return {
        "async_save": False,
        "barrier_with_L1_time": True,
        "ckpt_format": checkpoint_format(plan),
        "consumed_train_samples": 0,
        "consumed_valid_samples": 0,
        "data_cache_path": f"data/cache/{dataset}",
        "data_path": [f"data/{dataset}_text_document"],
        "dataloader_type": "single",
        "eval_interval": habits.eval_interval,
        "eval_iters": habits.eval_iters,
        "exit_duration_in_mins": None,
        "exit_interval": plan.spec.recipe.total_steps,
        "exit_signal_handler": True,
        "iteration": 0,
        "load": habits.folder,
        "log_energy": False,
        "log_interval": log_interval,
        "log_memory_interval": None,
        "log_progress": False,
        "log_throughput": True,
        "pretrained_checkpoint": (
            f"models/{plan.spec.model.name}" if plan.spec.recipe.continued_loss else None
        ),
        "save": habits.folder,
        "save_interval": habits.save_interval,
        "seed": RANDOM_SEED,
        "skipped_train_samples": 0,
        "split": "99,1,0",
        "tensorboard_dir": None,
        "timing_log_level": 0,
        "timing_log_option": "minmax",
        "wandb_project": "",
    }
