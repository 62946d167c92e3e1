"""A run behind HTTP in this process: a server that a test moves through time."""

from __future__ import annotations

import math
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ghosttrain.core.errors import RequestError, SpecError
from ghosttrain.testing.moments import distance_s, incident_time_s, labels_of, run_time_s
from ghosttrain.testing.page import Page
from ghosttrain.testing.wanted import Wanted, run_of

if TYPE_CHECKING:
    from ghosttrain.catalog import Metric
    from ghosttrain.core.events import IncidentLabelled
    from ghosttrain.core.run import Run
    from ghosttrain.serve.collection import Collector
    from ghosttrain.serve.live import LiveRun
    from ghosttrain.testing.alerts import Alert, Rules
    from ghosttrain.testing.moments import When

METRICS = "default,node"  # as `ghosttrain serve` has them
HOST = "127.0.0.1"
# All who scrape within it see one state. A test that plays at speed 60 looks every 6 s of run
# time at most; to move or to inject shows at once.
COLLECT_INTERVAL_WALL_S = 0.1
SCRAPE_TIMEOUT_WALL_S = 30.0


class RunServer:
    """A run that is being served; `serving()` makes it.

    Attributes:
        url: Where it is, without a path: as for `/sd` and `/api/v1/state`.
        metrics_url: The page of all nodes and the job.
        host, port: The same for who wants them apart, as in a Prometheus' `targets`.
    """

    def __init__(self, collector: Collector, metrics: Sequence[Metric], port: int) -> None:
        self._collector, self._metrics = collector, metrics
        self.host, self.port = HOST, port
        self.url = f"http://{HOST}:{port}"
        self.metrics_url = f"{self.url}/metrics"

    @property
    def run(self) -> Run:
        """The run, with all that was injected so far."""
        return self._collector.live.run

    @property
    def time_s(self) -> float:
        """Run time now."""
        return self._collector.collection().moment.playing.time_s

    @property
    def unix_s(self) -> float:
        """The date of it, as Unix time: where `history()` has it."""
        return self.run.spec.start_unix_s + self.time_s

    @property
    def labels(self) -> tuple[IncidentLabelled, ...]:
        """The ground truth: what is wrong, where, from when to when; by the incidents' numbers."""
        return labels_of(self.run)

    def at(self, when: When) -> float:
        """Jump to a moment: seconds of run time, "2h10min", "step=200", or a date.

        Returns:
            The run time there.

        Raises:
            SpecError: If the run has no such moment.
        """
        time_s = run_time_s(self.run, when)
        self._collector.change(lambda live: live.seek(time_s))
        return time_s

    def to_incident(self, number: int = 1, point: str = "onset", plus: When = 0.0) -> float:
        """Jump to a moment of an incident.

        Args:
            number: Which, from 1.
            point: "onset" (the cause is there), "effect" (the first signal shows it), "detected",
                "mitigated", "cleared" (the run is back where it was); or one of its signals, as in
                "xid".
            plus: So long after it; before it if negative.

        Returns:
            The run time there.

        Raises:
            SpecError: If there is no such incident or moment.
        """
        return self.at(max(0.0, incident_time_s(self.run, number, point) + distance_s(plus)))

    def play(self, speed: float = 1.0) -> None:
        """Have time pass: `speed` run seconds per wall second.

        Raises:
            SpecError: If there is no such speed.
        """
        self._collector.change(lambda live: _play(live, speed))

    def pause(self) -> None:
        """Have time stand still."""
        self._collector.change(lambda live: live.pause(True))

    def inject(self, faults: str) -> None:
        """Have faults strike from here on, as in "gpu-off-bus:17"; without a time: now.

        Raises:
            RequestError: If there are no such faults, or one would lie in the past.
        """
        from ghosttrain.serve.control import faults_in

        self._collector.change(lambda live: live.inject(faults_in(live, faults)))

    def alerts(
        self, rules: Rules, *, start: When = 0.0, stop: When | None = None, every: When = "15s"
    ) -> list[Alert]:
        """The alerts that rules raise while the run is scraped, by promtool's own rule engine.

        Where the server is now, and what it plays meanwhile, is left alone.

        Args:
            rules: A rule file's path, several, or the text of one.
            start, stop: Moments, as `at` takes them; the whole run.
            every: Between two scrapes, and two evaluations: whole seconds.

        Raises:
            RequestError: If there are no such moments or files, or promtool refuses the rules.
            WorldError: If promtool is not there.
        """
        from ghosttrain.testing.alerts import Scrapes, alerts_of

        run = self.run
        stop_s = run.end_s if stop is None else run_time_s(run, stop)
        scrapes = Scrapes(run_time_s(run, start), stop_s, distance_s(every))
        return alerts_of(run, self._metrics, rules, scrapes)

    def history(self, start: When = 0.0, stop: When | None = None, every: When = "15s") -> str:
        """OpenMetrics text of a window, for `promtool tsdb create-blocks-from openmetrics`.

        Where the server is now is left alone.

        Args:
            start, stop: Moments, as `at` takes them; the whole run.
            every: Between two moments.

        Raises:
            SpecError: If there are no such moments.
        """
        from ghosttrain.testing.history import history_of

        run = self.run
        stop_s = math.inf if stop is None else run_time_s(run, stop)
        start_s = run_time_s(run, start)
        return history_of(run, self._metrics, start_s, stop_s, distance_s(every))

    def scrape(self, path: str = "/metrics") -> Page:
        """Get a page over HTTP, as a scraper would; "/node/3/metrics" is one of a node."""
        request = urllib.request.Request(f"{self.url}{path}", headers={"Accept": "text/plain"})
        try:
            with urllib.request.urlopen(request, timeout=SCRAPE_TIMEOUT_WALL_S) as answer:
                return Page(answer.status, answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode()
            if error.code != 503:
                raise SpecError(f"{path}: {error.code}: {text}") from None
            return Page(error.code, text)


@contextmanager
def serving(
    spec: Wanted = None,
    *,
    seed: int | None = None,
    at: When | None = None,
    speed: float = 0.0,
    faults: str | None = None,
    port: int | None = None,
    metrics: str = METRICS,
    **flags: Any,
) -> Iterator[RunServer]:
    """Serve `/metrics` of a run on loopback, from a thread of this process, while in the context.

    Args:
        spec: What to rehearse: what the command line takes ("llama-3-8b", a file,
            "llama-3-8b --gpus 64"), a RunSpec or a Run; None for a random run.
        seed: Of the run; None: that of the words, else 1.
        at: Where it begins, as `RunServer.at` takes it.
        speed: Run seconds per wall second; at 0 time moves only when it is told to.
        faults: As `--faults` takes them, as in "gpu-off-bus@20min:17".
        port: Port to listen on; None for one that is free.
        metrics: As `ghosttrain serve --metrics` takes them.
        flags: Further flags of `ghosttrain run`, as in gpus=64, steps=500 or
            set={"recipe.checkpoint_interval_steps": 100}.

    Raises:
        RequestError: If there can be no such run, moment or metric, or a package is missing.
        WorldError: If the port is taken.
    """
    _refuse_missing_packages()
    from ghosttrain.serve.app import Faces
    from ghosttrain.serve.server import Server, listen

    chosen = _chosen(metrics)
    collector = _collector(run_of(spec, seed, {"faults": faults, **flags}), speed, chosen)
    sockets = listen(HOST, port or 0)
    served = RunServer(collector, chosen, int(sockets[0].getsockname()[1]))
    server = Server(Faces(collector, port=served.port).app(), sockets)
    try:
        if at is not None:
            served.at(at)
        server.start()
        yield served
    finally:
        server.stop()


def _chosen(metrics: str) -> tuple[Metric, ...]:
    from ghosttrain.exporters.prometheus.dcgm import chosen_metrics, known_metrics

    return chosen_metrics(metrics, known_metrics())


def _collector(run: Run, speed: float, metrics: Sequence[Metric]) -> Collector:
    from ghosttrain.exporters.prometheus.dcgm import Dialect
    from ghosttrain.serve.collection import Collector
    from ghosttrain.serve.live import LiveRun

    live = LiveRun(run)
    _play(live, speed)
    return Collector(live, metrics, Dialect(), interval_s=COLLECT_INTERVAL_WALL_S)


def _play(live: LiveRun, speed: float) -> None:
    """Play at a speed, or stand still."""
    if speed:
        live.change_speed(speed)
    live.pause(not speed)


def _refuse_missing_packages() -> None:
    """See that the packages are there which only a server needs."""
    for name in ("prometheus_client", "starlette", "uvicorn"):
        try:
            import_module(name)
        except ImportError:
            raise RequestError(
                f"ghosttrain.testing needs the package {name}: pip install 'ghosttrain[serve]'"
            ) from None
