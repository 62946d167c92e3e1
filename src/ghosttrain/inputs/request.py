"""What was asked, from SPEC, flags and `--set`, and the complete spec that comes of it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path

from ghosttrain import catalog
from ghosttrain.core.errors import PlanError, SpecError
from ghosttrain.core.plan import plan
from ghosttrain.core.spec import RunSpec
from ghosttrain.inputs.fields import NAMED, Asked, checked
from ghosttrain.inputs.models import is_file, is_model, looks_like_json
from ghosttrain.inputs.resolution import LENGTHS, Resolution

RANDOM_MODELS_TRIED = 40
_LARGER_GPUS = ("h200-sxm", "b200", "b300")

Notes = tuple[tuple[str, str], ...]

_FLAG_FIELDS = {
    "model": "model",
    "gpu": "gpu",
    "gpus": "cluster.gpus",
    "dataset": "dataset",
    "tokens": "recipe.tokens",
    "epochs": "recipe.epochs",
    "steps": "recipe.steps",
    "seq_len": "recipe.seq_len",
    "global_batch_size": "recipe.global_batch_size",
    "precision": "recipe.precision",
    "tp": "parallel.tensor_parallel",
    "pp": "parallel.pipeline_parallel",
    "dp": "parallel.data_parallel",
    "cp": "parallel.context_parallel",
    "ep": "parallel.expert_parallel",
    "faults": "faults",
}


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, before anything is chosen.

    Attributes:
        spec: The SPEC of the command line: a name or a file, None for a random run.
        asked: Fields by dotted name, from the flags and `--set`; they override those of SPEC.
        names: Which names random runs draw from.
        start_unix_s: Date of the run, None for what the spec file or the default says.
    """

    spec: str | None = None
    asked: Asked = field(default_factory=dict)
    names: catalog.Selection = "mixed"
    start_unix_s: int | None = None

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Request:
        """The request of parsed command-line flags.

        Raises:
            SpecError: If a value of `--set` or of a flag makes no sense.
        """
        asked: Asked = {}
        for flag, name in _FLAG_FIELDS.items():
            value = getattr(args, flag, None)
            if value is not None:
                asked[name] = checked(name, value, f"--{flag.replace('_', '-')}")
        for pair in getattr(args, "set", None) or ():
            name, equals, text = pair.partition("=")
            name = name.strip()
            if not (equals and name):
                raise SpecError(f"--set {pair!r}: give it as key=value")
            value = checked(name, text.strip(), "--set")
            if asked.setdefault(name, value) != value:
                raise SpecError(f"--set {pair!r}: {name} is also {asked[name]!r}: give one of them")
        return cls(args.spec, asked, args.names or "mixed", args.start)


def resolve(request: Request, seed: int) -> RunSpec:
    """The complete spec of a request; what is open is chosen by rule or drawn from `seed`.

    Raises:
        RequestError: If a name is unknown, a file cannot be read, or values contradict.
    """
    below, notes, is_launch = _asked_by_spec(request.spec, request.asked)
    asked = _merged(below, request.asked)
    start = None if "start" in request.asked else request.start_unix_s

    def resolution(*, is_random: bool, without: frozenset[str] = frozenset()) -> Resolution:
        return Resolution(
            asked,
            seed,
            names=request.names,
            start_unix_s=start,
            is_random=is_random,
            without=without,
        )

    if any(name == "model" or name.startswith("model.") for name in asked):
        named = resolution(is_random=False)
        spec = replace(named.spec(), notes=notes)
        if is_launch and not _names_a_gpu(asked):
            spec = _on_a_card_that_fits(spec)
        return named.with_faults(spec)
    refused: frozenset[str] = frozenset()
    first_error: PlanError | None = None
    for _ in range(RANDOM_MODELS_TRIED):
        attempt = resolution(is_random=True, without=refused)
        try:
            spec = attempt.with_faults(attempt.spec())
            plan(spec)
        except PlanError as error:  # this model does not suit what was asked: another may
            first_error = first_error or error
            refused |= {attempt.model_name}
        else:
            return spec
    assert first_error is not None
    raise first_error


def _names_a_gpu(asked: Asked) -> bool:
    return any(name in ("gpu", "cluster") or name.startswith("gpu.") for name in asked)


def _on_a_card_that_fits(spec: RunSpec) -> RunSpec:
    """The spec on the smallest card its layout fits, as launch files do not say on what they ran.

    Where none does, the spec as it was: `plan()` says why.
    """
    tried = spec
    for name in (None, *_LARGER_GPUS):
        if name is not None:
            gpu = catalog.gpu(name)
            cluster = catalog.cluster(
                gpu, spec.cluster.gpus, gpus_per_node=spec.cluster.gpus_per_node
            )
            why = f"{name}, the first of our cards that this launch fits"
            chosen = tuple(pair for pair in spec.chosen if pair[0] != "gpu")
            tried = replace(spec, gpu=gpu, cluster=cluster, chosen=(*chosen, ("gpu", why)))
        try:
            plan(tried)
        except PlanError:
            continue
        return tried
    return spec


def _merged(below: Asked, above: Asked) -> Asked:
    """`above` over `below`, without what of `below` goes with something that was replaced.

    Whoever asks for another model than the spec file's wants all of it, and its tokenizer;
    another length has a warm-up and intervals of its own; other faults replace all of them.
    """
    gone = [f"{name}." for name in NAMED if name in above]
    if "model" in above:
        gone += ["tokenizer"]
    if "gpu" in above and "cluster" in below:
        gone += ["cluster"]
    if "faults" in above:
        gone += ["fault"]
    if any(name in above for name in LENGTHS):
        gone += [*LENGTHS, "recipe.steps_per_epoch", "recipe.warmup_steps"]
        gone += ["recipe.validation_interval_steps", "recipe.checkpoint_interval_steps"]
    kept = {k: v for k, v in below.items() if not k.startswith(tuple(gone))} if gone else below
    return kept | above


def _asked_by_spec(spec: str | None, above: Asked) -> tuple[Asked, Notes, bool]:
    """What the SPEC of the command line asks for: a name, or what its file says.

    Of a launch file the remarks are returned too, what was assumed and what was not used; the
    last says whether it is one.
    """
    if spec is None:
        return {}, (), False
    path = Path(spec)
    is_model_name = path.suffix == ".json" or ("/" not in spec and is_model(spec))
    is_run_file = path.suffix in (".toml", ".sh", ".slurm", ".sbatch")
    if is_run_file or (not is_model_name and is_file(path) and not looks_like_json(path)):
        return _read(path, above)
    return {"model": spec}, (), False


def _read(path: Path, above: Asked) -> tuple[Asked, Notes, bool]:
    from ghosttrain.inputs.run_file import read_run_file  # with tomllib and its tables, 10 ms

    reading = read_run_file(path, above)
    return reading.asked, tuple(reading.notes), reading.is_launch
