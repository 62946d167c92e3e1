"""Facts as data: GPUs, models, datasets, tokenizers, fabrics, clusters, fault kinds.

Each kind is a TOML file with a source in every row. A name is looked up forgivingly ("Llama 3
8B", `llama-3-8b`, `h100`) and becomes a frozen record; nothing is read before a name is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar

from ghosttrain.catalog import rows
from ghosttrain.catalog.clusters import ClusterPreset, build_cluster, default_fabric
from ghosttrain.catalog.metrics import Metric, MetricList, metrics
from ghosttrain.catalog.names import find_key, fold
from ghosttrain.core.errors import SpecError, UnknownNameError
from ghosttrain.core.spec import (
    Cluster,
    Dataset,
    Fabric,
    FaultKind,
    Gpu,
    Mla,
    Model,
    Moe,
    Stack,
    Tokenizer,
)

__all__ = [
    "ClusterPreset",
    "Interruptions",
    "Kind",
    "Metric",
    "MetricList",
    "Selection",
    "cluster",
    "cluster_preset",
    "dataset",
    "datasets",
    "fabric",
    "fault_kind",
    "gpu",
    "key",
    "metrics",
    "model",
    "models",
    "named_cluster",
    "names",
    "published_interruptions",
    "realistic_faults",
    "stack",
    "tokenizer",
]

Kind = Literal["gpu", "model", "dataset", "tokenizer", "fabric", "cluster", "fault", "stack"]
Selection = Literal["earnest", "mixed", "satirical"]

_FILES: Final[Mapping[Kind, str]] = MappingProxyType(
    {
        "gpu": "gpus.toml",
        "model": "models.toml",
        "dataset": "datasets.toml",
        "tokenizer": "tokenizers.toml",
        "fabric": "fabrics.toml",
        "cluster": "clusters.toml",
        "fault": "faults.toml",
        "stack": "stacks.toml",
    }
)

_INTERRUPTIONS: Final = "interruptions.toml"
_PUBLISHED_RUN, _AMPERE_CLUSTER = "llama-3-405b", "rsc-1"  # their totals there
_AMPERE_AND_OLDER: Final = ("Ampere", "Turing", "Volta")
# What only NVIDIA's GPUs have a part for, besides NVLink.
_NVIDIA_ONLY: Final = ("gsp-timeout",)

_Record = TypeVar("_Record")


@dataclass(frozen=True, slots=True)
class Interruptions:
    """What interrupted a published run of Hopper GPUs, and how often.

    Attributes:
        counts: Interruptions by cause, as published.
        groups: The same by group of causes; `FaultKind.published` names one.
        total: All of them, as published.
        gpu_days: GPUs times days.
        ampere_rates: Rate of each group on Ampere, per 1,000 GPU-days: what is known of a cause is
            fixed, the others share what the total of a cluster of A100 leaves, in proportion.
    """

    counts: Mapping[str, int]
    groups: Mapping[str, int]
    total: int
    gpu_days: int
    ampere_rates: Mapping[str, float]

    def rate_per_1000_gpu_days(self, group: str) -> float:
        """Rate of a group of causes on Hopper."""
        return self.groups[group] * 1000 / self.gpu_days


def names(kind: Kind, selection: Selection = "mixed") -> list[str]:
    """Keys of a kind in the catalogue's order; of models and datasets those of the selection."""
    entries = rows.index(_FILES[kind]).items()
    if selection == "mixed":
        return [name for name, _ in entries]
    # A whole section is satirical, so its defaults tell and no row need be parsed.
    wanted = selection == "satirical"
    return [name for name, (defaults, _) in entries if ("satirical = true" in defaults) == wanted]


def key(kind: Kind, name: str) -> str:
    """The catalogue's key for what someone typed.

    Raises:
        UnknownNameError: If nothing fits; it carries the nearest match.
    """
    found = _find(kind, name)
    if found is None:
        file = _FILES[kind]
        raise UnknownNameError(kind, name, names(kind), aliases=rows.aliases(file))
    return found


def gpu(name: str) -> Gpu:
    """The GPU of that name; also by its driver's name ("NVIDIA H100 80GB HBM3")."""
    return _gpu(key("gpu", name))


def model(name: str) -> Model:
    """The model of that name."""
    return _model(key("model", name))


def dataset(name: str) -> Dataset:
    """The dataset of that name."""
    return _dataset(key("dataset", name))


def tokenizer(name: str) -> Tokenizer:
    """The tokenizer of that name."""
    return _load(Tokenizer, "tokenizer", key("tokenizer", name))


def fabric(name: str) -> Fabric:
    """The fabric of that name."""
    return _fabric(key("fabric", name))[0]


def fault_kind(name: str) -> FaultKind:
    """The fault kind of that name."""
    return _fault_kind(key("fault", name))


def realistic_faults(gpu: Gpu) -> tuple[FaultKind, ...]:
    """The kinds that strike such a GPU by themselves, each at its rate there.

    On Ampere and before the rate is the one published for A100. Links fail by their generation,
    Xids are NVIDIA's. A kind that only comes when it is asked for is not among them.
    """
    found = (_on_gpu(_fault_kind(name), gpu) for name in names("fault"))
    return tuple(kind for kind in found if kind is not None and kind.rate_per_1000_gpu_days > 0)


@cache
def published_interruptions() -> Interruptions:
    """The published interruptions that the rates of the fault kinds rest on."""
    table = {name: rows.row(_INTERRUPTIONS, name) for name in rows.index(_INTERRUPTIONS)}
    causes = {name: row for name, row in table.items() if "group" in row}
    totals, ampere = table[_PUBLISHED_RUN], table[_AMPERE_CLUSTER]
    gpu_days: int = totals["gpus"] * totals["days"]
    ampere_total = ampere["per_1000_node_days"] / ampere["gpus_per_node"]
    groups: dict[str, int] = {}
    ratios: dict[str, float] = {}
    for cause in causes.values():
        group = cause["group"]
        groups[group] = groups.get(group, 0) + cause["interruptions"]
        if "ampere_mtbe_ratio" in cause:
            ratios[group] = cause["ampere_mtbe_ratio"]
    known = {group: groups[group] * 1000 / gpu_days / ratio for group, ratio in ratios.items()}
    left = ampere_total - sum(known.values())
    others = sum(count for group, count in groups.items() if group not in known)
    return Interruptions(
        counts=MappingProxyType({name: cause["interruptions"] for name, cause in causes.items()}),
        groups=MappingProxyType(groups),
        total=totals["interruptions"],
        gpu_days=gpu_days,
        ampere_rates=MappingProxyType(
            {group: known.get(group, left * count / others) for group, count in groups.items()}
        ),
    )


def stack(name: str) -> Stack:
    """The training software of that name."""
    return _load(Stack, "stack", key("stack", name))


def models(selection: Selection = "mixed") -> tuple[Model, ...]:
    """All models of the selection, in the catalogue's order."""
    return tuple(_model(name) for name in names("model", selection))


def datasets(selection: Selection = "mixed") -> tuple[Dataset, ...]:
    """All datasets of the selection, in the catalogue's order."""
    return tuple(_dataset(name) for name in names("dataset", selection))


def cluster(
    gpu: Gpu | str, gpus: int, *, fabric: str | None = None, gpus_per_node: int | None = None
) -> Cluster:
    """A cluster of the machines this GPU usually comes in: 8 to an HGX node, 4 to a GB200 tray.

    Args:
        gpu: A GPU or its name.
        gpus: GPUs in use.
        fabric: Name of what joins the nodes; None: what such machines usually have. A slower
            fabric than the machine's NICs slows them.
        gpus_per_node: Where the machine is not the usual one.

    Raises:
        UnknownNameError: If a name is in no catalogue.
        SpecError: If a count is below 1.
    """
    card = _gpu(key("gpu", gpu)) if isinstance(gpu, str) else gpu
    joined, port_gbps = _fabric(key("fabric", fabric or default_fabric(card)))
    return build_cluster(
        card, gpus, fabric=joined, port_gbps=port_gbps, gpus_per_node=gpus_per_node
    )


def cluster_preset(name: str) -> ClusterPreset:
    """The named cluster's row: its GPU, its size, its fabric."""
    return _load(ClusterPreset, "cluster", key("cluster", name))


def named_cluster(name: str, gpus: int | None = None) -> tuple[Gpu, Cluster]:
    """A named cluster and its GPU; all of it, or `gpus` of its GPUs.

    Raises:
        UnknownNameError: If there is no such cluster.
        SpecError: If it has fewer GPUs than asked for.
    """
    preset = cluster_preset(name)
    count = preset.gpus if gpus is None else gpus
    if count > preset.gpus:
        raise SpecError(f"{preset.name} has {preset.gpus:,} GPUs, not {count:,}: ask for fewer")
    card = _gpu(preset.gpu)
    usual = cluster(card, count, fabric=preset.fabric, gpus_per_node=preset.gpus_per_node or None)
    return card, replace(
        usual,
        name=preset.name,
        nic_gbps=preset.nic_gbps or usual.nic_gbps,
        # The file system is the whole machine's, however little of it a run uses.
        storage_gbs=preset.storage_gbs or usual.storage_gbs,
        node_storage_gbs=preset.node_storage_gbs or usual.node_storage_gbs,
        source=preset.source,
    )


def _find(kind: Kind, name: str) -> str | None:
    file = _FILES[kind]
    found = find_key(name, rows.index(file), rows.aliases(file))
    if found or kind == "fault":
        return found
    # The last resort parses every row: names as shown and as drivers print them.
    wanted = fold(name)
    for candidate in rows.index(file):
        values = rows.row(file, candidate)
        if wanted in (fold(values.get("name", "")), fold(values.get("product_name", ""))):
            return candidate
    return None


def _load(record: type[_Record], kind: Kind, found: str, **changes: Any) -> _Record:
    """The record of a row, named by its key unless the row has a name to show."""
    values = {"name": found, **rows.row(_FILES[kind], found), **changes}
    return rows.record(record, values)


@cache
def _fault_kind(found: str) -> FaultKind:
    values = {"name": found, **rows.row(_FILES["fault"], found)}
    values["xids"] = tuple(values.get("xids", ()))
    if group := values.get("published"):
        table = published_interruptions()
        share = values.pop("published_count") / table.groups[group]
        values["rate_per_1000_gpu_days"] = share * table.rate_per_1000_gpu_days(group)
        values["ampere_rate_per_1000_gpu_days"] = share * table.ampere_rates[group]
    return rows.record(FaultKind, values)


def _on_gpu(kind: FaultKind, gpu: Gpu) -> FaultKind | None:
    """The kind as it strikes such a GPU; None if it cannot."""
    is_nvidia = gpu.vendor == "NVIDIA"
    if kind.family == "nvlink":
        is_newer_link = gpu.arch == "Blackwell"
        if not is_nvidia or not gpu.nvlink_gbs or (kind.name == "nvlink5-error") != is_newer_link:
            return None
    if not is_nvidia:
        return None if kind.name in _NVIDIA_ONLY else replace(kind, xids=())
    ampere = kind.ampere_rate_per_1000_gpu_days
    if gpu.arch in _AMPERE_AND_OLDER and ampere >= 0:
        return replace(kind, rate_per_1000_gpu_days=ampere)
    return kind


@cache
def _gpu(found: str) -> Gpu:
    return _load(Gpu, "gpu", found)


@cache
def _model(found: str) -> Model:
    values = rows.row(_FILES["model"], found)
    mla, moe = values.get("mla"), values.get("moe")
    return _load(
        Model,
        "model",
        found,
        mla=rows.record(Mla, mla) if mla else None,
        moe=rows.record(Moe, moe) if moe else None,
    )


@cache
def _dataset(found: str) -> Dataset:
    return _load(Dataset, "dataset", found)


@cache
def _fabric(found: str) -> tuple[Fabric, float]:
    """The fabric and the line rate of its port, Gbit/s, which the record does not keep."""
    values = {**rows.row(_FILES["fabric"], found)}
    port_gbps = float(values.pop("port_gbps"))
    return rows.record(Fabric, values), port_gbps
