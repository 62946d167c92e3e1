from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain.views.renderables.bars import Progress, bar, phase_line, pinned_lines
from ghosttrain.views.renderables.glyphs import ASCII, UNICODE

PROGRESS = Progress(
    epoch=1,
    epochs=3,
    step_in_epoch=410,
    steps_per_epoch=1000,
    run_frac=410 / 3000,
    loss=3.6401,
    learning_rate=2.95e-4,
    grad_norm=0.412,
    mfu=0.41,
    tokens_per_s=424690.2,
    samples_per_s=51.84,
    elapsed_s=1012,
    eta_s=6600,
)


def pinned(width: int, **changes: object) -> list[str]:
    progress = replace(PROGRESS, **changes)  # type: ignore[arg-type]
    return [line.text for line in pinned_lines(progress, width, UNICODE)]


EPOCH = "Epoch: [===>                     ] 1/3  14%"
STEP = "Step:  [=============>                     ]  41%"


def test_two_lines_of_the_contract():
    assert pinned(125) == [
        EPOCH,
        f"{STEP} | Loss: 3.6401 | PPL: 38.10 | LR: 2.95e-04 | 424690 tok/s | 16m52s<1h50m",
    ]


@pytest.mark.parametrize("width", [60, 100, 125, 200])
@pytest.mark.parametrize("widest", [0.0, 3.7, math.nan])
def test_a_loss_that_is_no_number_moves_nothing(width, widest):
    """The columns are as wide as the finite losses of late."""
    before = pinned(width, widest_loss=3.7)
    after = pinned(width, loss=math.nan, grad_norm=math.nan, widest_loss=widest)
    if widest == 3.7:
        assert [len(line) for line in after] == [len(line) for line in before]
    assert all(len(line) <= width for line in after)
    assert any("Loss:" in line and "nan" in line for line in after)


@pytest.mark.parametrize("loss", [50.0, 1e6, math.inf])
def test_a_huge_loss_fits_or_goes(loss):
    for width in (60, 100, 125, 200):
        assert all(len(line) <= width for line in pinned(width, loss=loss))


def test_more_where_the_width_allows():
    assert pinned(200)[1] == (
        f"{STEP} | Loss: 3.6401 | PPL: 38.10 | LR: 2.95e-04 | grad  0.412 | MFU 41.0% | "
        "424690 tok/s |   51.8 samples/s |  410/1000 | 16m52s<1h50m"
    )


def test_three_lines_on_a_narrow_screen():
    assert pinned(100) == [
        EPOCH,
        f"{STEP} | 424690 tok/s |  410/1000",
        "Loss: 3.6401 | PPL: 38.10 | LR: 2.95e-04 | grad  0.412 | MFU 41.0% | 16m52s<1h50m",
    ]


@pytest.mark.parametrize(
    ("width", "metrics"),
    [
        (80, "Loss: 3.6401 | PPL: 38.10 | LR: 2.95e-04 | MFU 41.0% | 16m52s<1h50m"),
        (60, "Loss: 3.6401 | PPL: 38.10 | 424690 tok/s | 16m52s<1h50m"),
        (45, "Loss: 3.6401 | 424690 tok/s | 16m52s<1h50m"),
    ],
)
def test_metrics_go_by_importance(width, metrics):
    assert pinned(width)[2] == metrics


def test_too_narrow_for_bars():
    assert pinned(39) == []
    assert len(pinned(40)) == 3


@pytest.mark.parametrize(
    ("frac", "text"),
    [
        (0.0, "[          ]"),
        (0.04, "[          ]"),
        (0.05, "[>         ]"),
        (0.5, "[====>     ]"),
        (0.994, "[=========>]"),
        (1.0, "[==========]"),
    ],
)
def test_bars(frac, text):
    assert bar(frac, 10) == text


def test_a_phase_takes_the_place_of_the_steps():
    line = "Validation [=============>                     ]  41% | 6s left"
    lines = pinned(124, phase="Validation", phase_frac=0.41, phase_detail="6s left")
    assert lines[:2] == [EPOCH, line]
    assert lines[2].endswith("16m52s<1h50m")
    # Where there is no third line, the phase's has what matters most of it.
    lines = pinned(125, phase="Validation", phase_frac=0.41, phase_detail="6s left")
    assert lines == [EPOCH, f"{line} | Loss: 3.6401 | PPL: 38.10 | 16m52s<1h50m"]


def test_before_training_the_phase_stands_in_for_the_steps():
    lines = pinned(80, training=False, phase="Initialising weights", phase_frac=0.5)
    assert lines[0].startswith("Epoch: [")
    assert lines[1:] == ["Initialising weights [=================>                 ]  50%"]


def test_a_phase_without_room_for_a_bar_keeps_its_percent():
    assert phase_line("Saving checkpoint", 0.5, "", 24).text == "Saving checkpoint  50%"
    assert len(phase_line("Saving checkpoint", 0.5, "", 20)) == 20


def test_the_widest_loss_of_late_holds_the_columns():
    line = pinned(160, widest_loss=10.5, loss=9.8)[1]
    assert "Loss:  9.8000 | PPL: 18033.74 |" in line


@given(
    width=st.integers(20, 260),
    steps=st.sampled_from((1, 1000, 10**7)),
    loss=st.floats(0, 20),
    grad=st.floats(0, 2000),
    tokens=st.floats(0, 1e9),
    elapsed=st.floats(0, 1e8),
    eta=st.floats(0, 1e8),
    frac=st.floats(0, 1),
    epochs=st.sampled_from((1, 3, 1000)),
    phase=st.sampled_from(("", "Validation", "Loading weights from the checkpoint at step 1,000")),
    training=st.booleans(),
)
def test_pinned_lines_always_fit(
    width, steps, loss, grad, tokens, elapsed, eta, frac, epochs, phase, training
):
    progress = replace(
        PROGRESS,
        steps_per_epoch=steps,
        step_in_epoch=int(frac * steps),
        run_frac=frac,
        epochs=epochs,
        loss=loss,
        grad_norm=grad,
        tokens_per_s=tokens,
        samples_per_s=tokens / 8192,
        elapsed_s=elapsed,
        eta_s=eta,
        phase=phase,
        phase_frac=frac,
        phase_detail="1h00m left",
        training=training,
    )
    for glyphs in (UNICODE, ASCII):
        lines = pinned_lines(progress, width, glyphs)
        assert all(len(line) <= width for line in lines)
        assert len(lines) <= 3


@given(width=st.integers(45, 260), loss=st.floats(1, 15))
def test_loss_and_time_to_go_are_always_there(width, loss):
    text = " ".join(pinned(width, loss=loss, widest_loss=loss))
    assert f"Loss: {loss:.4f}" in text
    assert "16m52s<1h50m" in text
    assert "424690 tok/s" in text
