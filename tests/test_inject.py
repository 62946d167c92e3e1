"""Player.inject: a fault while the run plays; all that has been given out stays true."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ghosttrain import catalog
from ghosttrain.core.errors import SpecError
from ghosttrain.core.events import Event, FaultOccurred, IncidentLabelled, StepsCompleted
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.spec import Faults, InjectedFault, Recipe
from ghosttrain.exporters.jsonl import JsonlWriter
from ghosttrain.playback import Player, play
from tests.strategies import machine_spec

RECIPE = Recipe(
    seq_len=8192, global_batch_size=128, epochs=2, steps_per_epoch=600,
    checkpoint_interval_steps=100,
)  # fmt: skip
SPEC = replace(machine_spec("llama-3-8b", "h100-sxm", 64), recipe=RECIPE, time_limit_s=12 * 3600.0)
NOW_S = 700.0
HANG = replace(catalog.fault_kind("gpu-off-bus"), hang_share=1.0)


def fault(name: str, **values) -> InjectedFault:
    return InjectedFault(catalog.fault_kind(name), **values)


def run_with(*faults: InjectedFault) -> Run:
    return simulate(replace(SPEC, faults=Faults(injected=faults)), 7)


def player_at(now_s: float, *faults: InjectedFault) -> Player:
    player = Player(run_with(*faults))
    player.seek(now_s)
    return player


def rows(run: Run, until_s: float) -> bytes:
    writer = JsonlWriter()
    return b"".join(writer.accept(event) for event in run.events(0, until_s))


def occurred(run: Run) -> list[tuple[str, float]]:
    events = run.events(0, math.inf, sample_every=10**6)
    return [(e.kind, e.time_s) for e in events if isinstance(e, FaultOccurred)]


@pytest.mark.parametrize("name", catalog.names("fault"))
def test_every_kind_leaves_the_past_as_it_was(name):
    player = player_at(NOW_S)
    before = rows(player.run, NOW_S)
    player.inject(fault(name))
    assert rows(player.run, NOW_S) == before
    assert occurred(player.run) == [(name, NOW_S)]


@pytest.mark.parametrize(
    "now_s", [5.0, 60.0, 333.3, 650.0, 701.0, 1299.0, 1320.0, 1360.0, 1450.0, 1800.0]
)
@pytest.mark.parametrize("name", ["straggler", "nccl-hang", "ecc-sbe-storm"])
def test_the_past_holds_also_among_other_faults(now_s, name):
    """In a launch, in a hang, while it is down, while steps are done again, and behind that."""
    player = player_at(now_s, InjectedFault(HANG, at_s=700.0, gpu=17), fault("fan", at_s=300.0))
    before = rows(player.run, now_s)
    player.inject(fault(name, at_s=now_s + 200.0, gpu=3))
    assert rows(player.run, now_s) == before


def test_position_speed_and_pause_stay():
    player = player_at(NOW_S)
    player.speed, player.paused = 40.0, True
    player.inject(fault("straggler"))
    assert (player.position_s, player.speed, player.paused) == (NOW_S, 40.0, True)
    assert not player.finished
    assert list(player.advance(1.0)) == []


def test_it_is_an_edit_of_the_spec():
    """What has been injected can be had again, without a player."""
    player = player_at(NOW_S)
    player.inject(fault("straggler", gpu=17))
    player.inject(fault("loss-nan", at_s=900.0))
    again = simulate(player.run.spec, 7)
    assert rows(again, math.inf) == rows(player.run, math.inf)
    assert [f.at_s for f in player.run.spec.faults.injected] == [NOW_S, 900.0]


def test_what_comes_next_has_the_fault():
    player = player_at(NOW_S)
    quiet = player.run
    player.inject(fault("straggler", severity=0.5, gpu=17))
    player.speed = 100.0
    steps = [e for e in player.advance(10.0) if isinstance(e, StepsCompleted)]
    assert max(float(e.step_time_s.max()) for e in steps) > 1.2 * quiet.plan.step_time.total_s


class Injecting:
    """A sink that injects a fault from a frame, as a key in a view does."""

    def __init__(self, at_s: float, new: InjectedFault) -> None:
        self.events: list[Event] = []
        self.injected_s = -1.0
        self._at_s, self._new = at_s, new

    def accept(self, event) -> None:
        self.events.append(event)

    def draw(self, player: Player) -> None:
        if self.injected_s < 0 and player.position_s >= self._at_s:
            self.injected_s = player.position_s
            player.inject(self._new)

    def sample_every(self, steps: float) -> int:
        return 10


@pytest.mark.parametrize("speed", [50.0, "auto", "max"])
def test_it_works_while_playing(speed):
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    sink = Injecting(NOW_S, fault("gpu-off-bus", gpu=17))
    player = Player(run_with(), speed=speed, max_steps_per_advance=16)

    def clock() -> float:
        now[0] += 0.02
        return now[0]

    assert play(player, sink, clock=clock, sleep=sleep)
    assert sink.injected_s >= NOW_S
    assert [e.time_s for e in sink.events if isinstance(e, FaultOccurred)] == [sink.injected_s]
    assert any(isinstance(e, IncidentLabelled) for e in sink.events)
    writer = JsonlWriter()
    played = b"".join(writer.accept(event) for event in sink.events)
    assert played == rows(player.run, math.inf)


def test_the_past_cannot_be_struck():
    player = player_at(NOW_S)
    before = player.run
    with pytest.raises(SpecError, match=r"at 600\.000 s is in the past: the run is at 700\.000 s"):
        player.inject(fault("straggler", at_s=600.0))
    assert player.run is before


def test_a_step_that_has_begun_cannot_be_struck():
    player = player_at(NOW_S)
    done = int(player.run.fleet(NOW_S).step[0])
    for step in (1, done, done + 1):
        with pytest.raises(SpecError, match=rf"step {done + 1} has begun"):
            player.inject(fault("gpu-off-bus", at_step=step))
    before = rows(player.run, NOW_S)
    player.inject(fault("gpu-off-bus", at_step=done + 2))
    assert rows(player.run, NOW_S) == before
    [(kind, at_s)] = occurred(player.run)
    assert kind == "gpu-off-bus"
    assert NOW_S < at_s < NOW_S + 3 * player.run.plan.step_time.total_s


def test_steps_that_are_done_again_have_begun():
    """Thrown back to a checkpoint, the run is at a lower step: but the higher one has been."""
    player = player_at(0.0, fault("gpu-off-bus", at_s=NOW_S, gpu=17))
    incident = player.run.timeline.incidents[0]
    assert incident.relaunch_s is not None
    player.seek(incident.relaunch_s + 120.0)
    with pytest.raises(SpecError, match=f"step {incident.strike_step + 1} has begun"):
        player.inject(fault("straggler", at_step=incident.strike_step))
    player.inject(fault("straggler", at_step=incident.strike_step + 2))


def test_what_the_run_cannot_have_is_refused():
    player = player_at(NOW_S)
    with pytest.raises(SpecError, match="GPU 64"):
        player.inject(fault("straggler", gpu=64))
    player.seek(math.inf)
    with pytest.raises(SpecError, match="the run is over"):
        player.inject(fault("straggler"))
