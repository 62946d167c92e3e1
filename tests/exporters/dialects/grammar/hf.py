"""Hugging Face's Trainer, transformers 4.57 and 5."""

from __future__ import annotations

import re

_NUMBER = r"-?(?:\d+(?:\.\d+)?(?:e[+-]\d+)?|nan)"

HF_STEP = re.compile(
    rf"\{{'loss': '?(?P<loss>{_NUMBER})'?, 'grad_norm': '?(?P<gn>{_NUMBER})'?, "
    rf"'learning_rate': '?(?P<lr>{_NUMBER})'?, 'epoch': '?(?P<epoch>{_NUMBER})'?\}}"
)
_HF_DICTS = tuple(
    r"\{" + ", ".join(rf"'{key}': '?{_NUMBER}'?" for key in keys.split()) + r"\}"
    for keys in (
        "eval_loss eval_runtime eval_samples_per_second eval_steps_per_second epoch",
        "train_runtime train_samples_per_second train_steps_per_second train_loss epoch",
    )
)
HF = (
    HF_STEP.pattern,
    *_HF_DICTS,
    r"\*\*\*\*\* Running training \*\*\*\*\*",
    r"  Num examples = [\d,]+|  Num Epochs = [\d,]+|  Batch size = \d+",
    r"  Instantaneous batch size per device = [\d,]+",
    r"  Total train batch size \(w\. parallel, distributed & accumulation\) = [\d,]+",
    r"  Gradient Accumulation steps = \d+|  Total optimization steps = [\d,]+",
    r"  Number of trainable parameters = [\d,]+",
    r"  Continuing training from checkpoint, will skip to saved global_step",
    r"  Continuing training from (?:epoch|global step) \d+",
    r"  Will skip the first \d+ epochs then the first \d+ batches in the first epoch\.",
    r"|\*\*\*\*\* Running Evaluation \*\*\*\*\*",
    r"Loading model from \S+/checkpoint-\d+\.",
    r"Saving model checkpoint to \S+/(?:checkpoint-\d+|final)",
    r"Configuration saved in \S+/(?:config|generation_config)\.json",
    r"Model weights saved in \S+/model\.safetensors",
    r"The model is bigger than the maximum size per checkpoint \(50?GB\) and is going to be split "
    r"in \d+ checkpoint shards\. You can find where each parameters has been saved in the index "
    r"located at \S+/model\.safetensors\.index\.json\.",
    r"tokenizer config file saved in \S+/tokenizer_config\.json",
    r"Special tokens file saved in \S+/special_tokens_map\.json",
    r"Training completed\. Do not forget to share your model on huggingface\.co/models =\)",
)
