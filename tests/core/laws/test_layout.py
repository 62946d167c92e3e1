"""The planner's layouts: lawful, near what people choose, and refused with reasons."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain.core.errors import PlanError
from ghosttrain.core.laws.architecture import parameter_counts
from ghosttrain.core.laws.layout import choose_layout, describe, divisors, layout_step_time
from ghosttrain.core.spec import Layout, ParallelRequest
from tests.core.laws.test_compute import run_plan
from tests.strategies import machine_spec, planned, specs


@given(spec=specs(faults=False))
def test_a_chosen_layout_divides_everything(spec):
    layout, recipe, model = planned(spec).layout, spec.recipe, spec.model
    assert layout.world_size == spec.cluster.gpus
    ranks = layout.data_parallel
    per_step = ranks * layout.micro_batch_size * layout.micro_batches
    assert per_step == recipe.global_batch_size
    assert model.heads % layout.tensor_parallel == 0
    assert layout.pipeline_parallel <= model.layers
    assert layout.tensor_parallel <= max(8, spec.gpu.nvlink_domain)
    assert (ranks * layout.context_parallel) % layout.expert_parallel == 0
    if model.moe:
        assert model.moe.experts % layout.expert_parallel == 0
    else:
        assert layout.expert_parallel == 1


@given(spec=specs(faults=False), data=st.data())
def test_what_was_asked_is_kept_and_costs_no_less(spec, data):
    """The free choice is at least as fast as any part of it that is asked for."""
    free = planned(spec)
    names = data.draw(st.sets(st.sampled_from(sorted(ParallelRequest.__slots__)), min_size=1))
    asked = ParallelRequest(**{name: getattr(free.layout, name) for name in names})
    chosen = choose_layout(replace(spec, parallel=asked), parameter_counts(spec.model))
    for name in names:
        assert getattr(chosen.layout, name) == getattr(free.layout, name)
    # Layouts within half a per cent are equals: the first found stays.
    assert chosen.step.total_s == pytest.approx(free.step_time.total_s, rel=0.02)
    assert layout_step_time(spec, free.params, free.layout) == free.step_time


@pytest.mark.parametrize(
    ("model", "gpu", "gpus", "batch", "tensor", "pipeline"),
    [
        ("llama-3-8b", "h100-sxm", 64, 128, {1}, {1}),  # below 10B: shard the states
        ("llama-3-70b", "h100-sxm", 512, 512, {2, 4, 8}, {1, 2, 4, 5, 8, 10}),
        ("llama-3.1-405b", "h100-sxm", 8192, 2048, {8}, {8, 9, 14, 16, 21}),  # published 8 x 16
    ],
)
def test_layouts_are_near_what_people_choose(model, gpu, gpus, batch, tensor, pipeline):
    layout = run_plan(model, gpu, gpus, seq_len=8192, batch=batch).layout
    assert layout.tensor_parallel in tensor
    assert layout.pipeline_parallel in pipeline


def test_the_published_layout_of_405b_is_near_the_best():
    free = run_plan("llama-3.1-405b", "h100-sxm", 8192, seq_len=8192, batch=2048)
    published = run_plan(
        "llama-3.1-405b", "h100-sxm", 8192, seq_len=8192, batch=2048,
        tensor_parallel=8, pipeline_parallel=16, data_parallel=64,
    )  # fmt: skip
    assert published.step_time.total_s < 1.1 * free.step_time.total_s


REFUSALS = [
    ({"tensor_parallel": 8, "pipeline_parallel": 16, "data_parallel": 2}, "needs 256 GPUs"),
    ({"data_parallel": 3}, "does not divide the cluster's 64"),
    ({"tensor_parallel": 64}, "does not divide Llama-3-8B's 32 attention heads"),
    ({"pipeline_parallel": 64}, "more than Llama-3-8B's 32 layers"),
    ({"expert_parallel": 2}, "does not divide Llama-3-8B's 1 experts"),
    ({"micro_batch_size": 7}, "no layout divides: global batch 512 sequences, 64 GPUs"),
]


@pytest.mark.parametrize(("asked", "reason"), REFUSALS, ids=[str(r[0]) for r in REFUSALS])
def test_what_cannot_be_is_refused_with_the_reason(asked, reason):
    base = machine_spec("llama-3-8b", "h100-sxm", 64)
    spec = replace(base, parallel=ParallelRequest(**asked))
    with pytest.raises(PlanError, match=reason) as refusal:
        choose_layout(spec, parameter_counts(spec.model))
    assert ": " in str(refusal.value) or "layers" in str(refusal.value)


def test_what_does_not_fit_says_how_much_is_missing():
    with pytest.raises(PlanError) as refusal:
        run_plan("llama-3.1-405b", "h100-sxm", 8, seq_len=8192, batch=8)
    message = str(refusal.value)
    assert message.startswith("Llama-3.1-405B does not fit: the leanest layout (TP ")
    assert "GiB a GPU, NVIDIA H100 80GB HBM3 has 79.6 GiB: take more or larger GPUs" in message


def test_a_layout_in_words():
    layout = Layout(8, 4, 1, 1, 2, 1, 1, 8, "zero1", "none")
    assert describe(layout) == "TP 8 x PP 4 x DP 2, zero1, micro-batch 1"
    assert "EP 8" in describe(replace(layout, expert_parallel=8))


def test_divisors():
    assert divisors(12, 1024) == [1, 2, 3, 4, 6, 12]
    assert divisors(12, 4) == [1, 2, 3, 4]
