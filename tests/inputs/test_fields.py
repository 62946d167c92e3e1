"""Values by dotted name: what is taken, what is refused, and how."""

from __future__ import annotations

import pytest

from ghosttrain import catalog
from ghosttrain.core.errors import SpecError
from ghosttrain.inputs.fields import checked, field_types
from ghosttrain.inputs.limits import LIMITS

TAKEN = [
    ("recipe.seq_len", "4096", 4096),
    ("recipe.seq_len", " 4_096 ", 4096),
    ("recipe.tokens", "15T", 15e12),
    ("recipe.tokens", "2e9", 2e9),
    ("recipe.global_batch_size", "1K", 1000),
    ("recipe.peak_learning_rate", "3e-4", 3e-4),
    ("recipe.schedule", "wsd", "wsd"),
    ("parallel.tensor_parallel", "auto", None),
    ("parallel.sharding", "fsdp", "fsdp"),
    ("model.tied_embeddings", "true", True),
    ("model.tied_embeddings", False, False),
]
REFUSED = [
    ("recipe.seq_len", "abc"),
    ("recipe.seq_len", "-4"),
    ("recipe.seq_len", "8.5"),
    ("recipe.seq_len", "9" * 5000),
    ("recipe.seq_len", 10**400),
    ("recipe.seq_len", "1e400"),
    ("recipe.seq_len", True),
    ("recipe.seq_len", [1]),
    ("recipe.seq_len", {"a": 1}),
    ("recipe.seq_len", None),
    ("recipe.peak_learning_rate", "nan"),
    ("recipe.peak_learning_rate", float("inf")),
    ("recipe.peak_learning_rate", float("nan")),
    ("recipe.schedule", "cosin"),
    ("recipe.schedule", ["cosine"]),
    ("model.tied_embeddings", "1"),
    ("model.tied_embeddings", [True]),
    ("model.name", "two\nlines"),
    ("model.name", "\x1b[31mred"),
    ("model.name", "x" * 2000),
    ("model.name", "\udcff"),
    ("gpu.hbm_gbs", 0),
    ("dataset.tokens", -5),
    ("parallel.micro_batch_size", 0),
]


@pytest.mark.parametrize(("name", "value", "expected"), TAKEN)
def test_values_are_converted(name, value, expected):
    converted = checked(name, value, "here")
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_impossible_values_are_one_line(name, value):
    with pytest.raises(SpecError) as error:
        checked(name, value, "here")
    text = str(error.value)
    assert text.startswith(f"here: {name} is ")
    assert "must be" in text
    assert len(text) < 200
    assert text.isprintable()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("recipe.seqlen", "did you mean recipe.seq_len?"),
        ("seq_len", "did you mean recipe.seq_len?"),
        ("recipe", "it is a table, give its fields, as in recipe.seq_len"),
        ("zzzzzz", "see docs/spec-file.md"),
    ],
)
def test_unknown_keys_get_a_hint(name, hint):
    with pytest.raises(SpecError, match=r"unknown key") as error:
        checked(name, "1", "--set")
    assert str(error.value).endswith(hint)


def test_every_number_has_limits():
    numbers = [n for n, kind in field_types().items() if "int" in str(kind) or "float" in str(kind)]
    assert set(numbers) == set(LIMITS)


@pytest.mark.parametrize("kind", ["model", "gpu", "dataset", "tokenizer", "fabric"])
def test_the_catalogue_is_within_the_limits(kind):
    part = "cluster.fabric" if kind == "fabric" else kind
    find = getattr(catalog, kind)
    for key in catalog.names(kind):
        record = find(key)
        for field in record.__dataclass_fields__:
            if (name := f"{part}.{field}") in field_types():
                assert checked(name, getattr(record, field), key) == getattr(record, field)
