"""Control over HTTP: what may be asked for, by whom, and what it does."""

from __future__ import annotations

import hmac
import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ghosttrain.core.errors import RequestError, SpecError

if TYPE_CHECKING:
    from ghosttrain.core.spec import InjectedFault
    from ghosttrain.serve.live import LiveRun

KEYS = ("pause", "speed", "seek", "inject")
_INCIDENT = re.compile(r"incident:(\d{1,6})(?:([+-])(.+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why somebody may not control the run."""

    status: int
    why: str


@dataclass(frozen=True, slots=True)
class Guard:
    """Who may control the run.

    With a token, whoever has it. Without one, which is so on loopback alone, whoever can reach
    it and is no page of another site in a browser: such a page can neither say
    `Content-Type: application/json` without asking first (and we do not answer that question),
    nor hide its `Origin`; and one that has made its own name point here gives itself away by the
    name in `Host`.
    """

    token: str = ""

    def refusal(self, headers: Mapping[str, str]) -> Refusal | None:
        """Why a request with these headers is refused, None if it is not."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if self.token:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not given.strip():
                return Refusal(401, "say `Authorization: Bearer TOKEN`")
            if not hmac.compare_digest(given.strip().encode(), self.token.encode()):
                return Refusal(403, "this is not the token")
        else:
            host = host_name(headers.get("host", ""))
            if not is_loopback(host):
                return Refusal(403, f"control is for this machine: {host[:80]!r} is no name of it")
            origin = headers.get("origin")
            if origin is not None and origin != f"http://{headers.get('host', '')}":
                return Refusal(403, "pages of other sites may not control the run")
        if kind != "application/json":
            return Refusal(415, "say `Content-Type: application/json`")
        return None


def host_name(authority: str) -> str:
    """The name of a `Host` header, without its port."""
    if authority.startswith("["):
        return authority.partition("]")[0].lower() + "]"
    return authority.rpartition(":")[0].lower() if ":" in authority else authority.lower()


def is_loopback(host: str) -> bool:
    """Whether a name or an address (an IPv6 one possibly in brackets) is this machine's alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def read_orders(body: bytes) -> dict[str, Any]:
    """What a body asks for.

    Raises:
        SpecError: If it is no JSON object, or has other keys than KEYS.
    """
    try:
        orders = json.loads(body)
    except (ValueError, RecursionError):
        raise SpecError("the body is no JSON") from None
    if not isinstance(orders, dict) or not orders:
        raise SpecError(f"give a JSON object with some of {', '.join(KEYS)}")
    for key in orders:
        if key not in KEYS:
            raise SpecError(f"unknown key {key[:60]!r}: there are {', '.join(KEYS)}")
    return orders


def action(orders: Mapping[str, Any]) -> Callable[[LiveRun], None]:
    """What does all that `orders` ask for: seek, then inject, then speed, then pause.

    Raises:
        SpecError: If a value is of a wrong kind; whether the run can have it shows when it is
            done.
    """
    steps: list[Callable[[LiveRun], None]] = []
    if "seek" in orders:
        to = orders["seek"]
        if isinstance(to, bool) or not isinstance(to, str | int | float):
            raise SpecError("seek: give a time as in '2h10min' or 'incident:1-2min', or seconds")
        steps.append(lambda live: live.seek(moment(live, str(to))))
    if "inject" in orders:
        words = orders["inject"]
        if not isinstance(words, str) or not words.strip():
            raise SpecError("inject: give faults in words, as in 'gpu-off-bus:17'")
        steps.append(lambda live: live.inject(faults_in(live, words)))
    if "speed" in orders:
        speed = read_speed(orders["speed"])
        steps.append(lambda live: live.change_speed(speed))
    if "pause" in orders:
        paused = orders["pause"]
        if not isinstance(paused, bool):
            raise SpecError("pause: give true or false")
        steps.append(lambda live: live.pause(paused))

    def act(live: LiveRun) -> None:
        for step in steps:
            step(live)

    return act


def read_speed(value: Any) -> float:
    """A speed as `--speed` and the key `speed` take it.

    Raises:
        SpecError: If it is none that a run is served at.
    """
    from ghosttrain.playback import parse_speed
    from ghosttrain.serve.live import check_speed

    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise SpecError("speed: give run seconds per wall second, or 'real'")
    speed = parse_speed(str(value))
    if isinstance(speed, str):
        raise SpecError(f"speed {speed}: what is scraped needs one that stays: give real or N")
    return check_speed(speed)


def moment(live: LiveRun, text: str) -> float:
    """Run time of a moment in words: a time, or that of an incident, and before or after it.

    Raises:
        SpecError: If it makes no sense.
    """
    from ghosttrain.inputs.durations import parse_duration
    from ghosttrain.inputs.faults import read_moment

    found = _INCIDENT.fullmatch(text.strip())
    if found is None:
        return read_moment(text)
    number, sign, distance = int(found[1]), found[2], found[3]
    incidents = live.run.timeline.incidents
    if not 1 <= number <= len(incidents):
        has = f"incidents 1 to {len(incidents)}" if incidents else "none: ask for --faults"
        raise SpecError(f"no incident {number}: the run has {has}")
    distance_s = parse_duration(distance) if distance else 0.0
    return max(0.0, incidents[number - 1].time_s + (distance_s if sign == "+" else -distance_s))


def faults_in(live: LiveRun, words: str) -> tuple[InjectedFault, ...]:
    """The faults that words ask for; those without a time strike now.

    Raises:
        RequestError: If there are no such faults.
    """
    from ghosttrain.inputs.faults import Setting, read_faults

    run = live.run
    planned, init_s = run.plan.run_s, run.plan.init_s

    def moment_s(share: float) -> float:
        return init_s + share * (planned - init_s)

    setting = Setting(run.seed, run.spec.gpu, run.spec.cluster, moment_s, lambda _: 0.0)
    if len(words) > 2000:
        raise SpecError(f"inject: {len(words):,} characters: 2,000 are the most")
    for word in words.split(","):
        if word.strip().endswith(".toml") or "/" in word:
            raise RequestError("inject: files are not read over HTTP: name a fault or a scenario")
    faults = read_faults(words, setting)
    if faults.drawn or not faults.injected:
        raise SpecError("inject: give faults or scenarios by name, as in 'gpu-off-bus:17'")
    return faults.injected
