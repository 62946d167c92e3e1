"""`ghosttrain list`: what the catalogue holds."""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself costs 4 ms
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from ghosttrain.views.renderables.line import Line

    Value = str | int | float | tuple[int, ...]
    Rows = list[dict[str, Value]]

KINDS = (
    *("models", "gpus", "datasets", "tokenizers", "clusters", "fabrics"),
    *("stacks", "faults", "scenarios", "metrics", "formats"),
)
_TITLES = {
    "parameters": "params",
    "hidden_size": "hidden",
    "vocab_size": "vocab",
    "memory_gib": "GiB",
    "bf16_tflops": "BF16 TFLOP/s",
    "fp8_tflops": "FP8",
    "tdp_w": "W",
    "bytes_per_token": "bytes a token",
    "hop_latency_us": "hop, us",
    "xids": "Xid",
    "rate_per_1000_gpu_days": "per 1,000 GPU-days",
}
_AMOUNTS = ("parameters", "tokens")  # shown as 8.03 B


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `list`."""
    parser.add_argument("kind", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument(
        "--names",
        choices=("earnest", "mixed", "satirical"),
        default="mixed",
        help="which models and datasets (default: mixed)",
    )
    parser.add_argument("--json", action="store_true", help="as JSON, units in the names")


def execute(args: argparse.Namespace) -> int:
    """List one kind."""
    from ghosttrain.views.show.terminal import Terminal, write_all

    rows = list(_rows(kind_of(args.kind), args.names))
    terminal = Terminal.of(1)
    if args.json:
        import json

        write_all(terminal.fd, (json.dumps(rows, indent=2) + "\n").encode())
        return 0
    width = terminal.size()[0] if terminal.is_tty else None
    lines = _lines(rows) if width is None else [line.fit(width) for line in _lines(rows)]
    text = "".join(line.ansi(color=terminal.color) + "\n" for line in lines)
    write_all(terminal.fd, terminal.encode(text))
    return 0


def kind_of(text: str) -> str:
    """The kind meant by `text`: in any case, one or many.

    Raises:
        SpecError: If there is no such kind; the message lists what there is.
    """
    from ghosttrain.core.errors import SpecError, nearest

    folded = text.strip().casefold()
    for kind in (folded, f"{folded}s"):
        if kind in KINDS:
            return kind
    near = nearest(folded[:50], KINDS)
    hint = f"did you mean {near}? " if near else ""
    raise SpecError(f"unknown kind {text!r}: {hint}there are {', '.join(KINDS)}")


def _lines(rows: Rows) -> list[Line]:
    """A header and the rows, numbers to the right; the last column may be long."""
    from ghosttrain.views.renderables.line import Line

    names = list(rows[0])
    table = [[_TITLES.get(name, name) for name in names]]
    table += [[_shown(name, row[name]) for name in names] for row in rows]
    cells = [max(len(row[i]) for row in table) for i in range(len(names))]
    right = [all(isinstance(row[name], int | float) for row in rows) for name in names]
    texts = [_joined(row, cells, right) for row in table]
    return [Line.of((texts[0], "cyan")), *(Line.of(text) for text in texts[1:])]


def _joined(row: Sequence[str], cells: Sequence[int], right: Sequence[bool]) -> str:
    columns = zip(row, cells, right, strict=True)
    return "  ".join(t.rjust(n) if is_right else t.ljust(n) for t, n, is_right in columns).rstrip()


def _shown(name: str, value: Value) -> str:
    from ghosttrain.views.renderables.plan_words import amount

    if isinstance(value, str):
        return value
    if not value:
        return "-"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if name in _AMOUNTS:
        return amount(value)
    return f"{value:,.4g}" if isinstance(value, float) and value < 1000 else f"{value:,.0f}"


def _rows(kind: str, selection: str) -> Iterator[dict[str, Value]]:
    """The rows of a kind: names for the commands first, then what tells them apart."""
    from ghosttrain import catalog
    from ghosttrain.core.laws.architecture import parameter_counts

    match kind:
        case "models":
            for key in catalog.names("model", selection):  # type: ignore[arg-type]  # argparse's
                m = catalog.model(key)
                sizes = {"parameters": parameter_counts(m).total, "layers": m.layers}
                more = {"hidden_size": m.hidden_size, "heads": m.heads, "vocab_size": m.vocab_size}
                yield {"name": key, **sizes, **more, "note": m.note}
        case "gpus":
            for key in catalog.names("gpu"):
                g = catalog.gpu(key)
                peaks = {"bf16_tflops": g.bf16_tflops, "fp8_tflops": g.fp8_tflops}
                memory_gib = round(g.memory_gib, 1)
                yield {
                    "name": key,
                    "memory_gib": memory_gib,
                    **peaks,
                    "tdp_w": g.tdp_w,
                    "product": g.product_name,
                }
        case "datasets":
            for key in catalog.names("dataset", selection):  # type: ignore[arg-type]  # argparse's
                d = catalog.dataset(key)
                yield {"name": key, "tokens": d.tokens, "kind": d.kind, "note": d.note}
        case "tokenizers":
            for key in catalog.names("tokenizer"):
                t = catalog.tokenizer(key)
                numbers = {"vocab_size": t.vocab_size, "bytes_per_token": t.bytes_per_token}
                yield {"name": key, **numbers, "kind": t.kind}
        case "clusters":
            for key in catalog.names("cluster"):
                c = catalog.cluster_preset(key)
                yield {"name": key, "gpus": c.gpus, "gpu": c.gpu, "fabric": c.fabric}
        case "fabrics":
            for key in catalog.names("fabric"):
                f = catalog.fabric(key)
                numbers = {"efficiency": f.efficiency, "hop_latency_us": f.hop_latency_us}
                yield {"name": key, **numbers, "kind": f.kind}
        case "stacks":
            for key in catalog.names("stack"):
                stack = catalog.stack(key)
                yield {"name": key, "speed": stack.speed, "what": stack.note}
        case "faults":
            for key in catalog.names("fault"):
                k = catalog.fault_kind(key)
                where = {"scope": k.scope, "course": k.course, "xids": k.xids}
                rate = k.rate_per_1000_gpu_days
                yield {"name": key, "title": k.title, **where, "rate_per_1000_gpu_days": rate}
        case "scenarios":
            from ghosttrain.catalog.scenarios import (
                scenario_kinds,
                scenario_names,
                scenario_title,
            )

            for key in scenario_names():
                kinds = ", ".join(scenario_kinds(key))
                yield {"name": key, "title": scenario_title(key), "kinds": kinds}
        case "metrics":
            from ghosttrain.exporters.prometheus.dcgm import known_metrics

            for metric in {each.name: each for each in known_metrics()}.values():
                lists = ", ".join(metric.lists)
                yield {
                    "name": metric.name,
                    "lists": lists,
                    "kind": metric.kind,
                    "what": metric.help,
                }
        case _:
            from ghosttrain.exporters.formats import FORMATS

            about = "the show's lines, plain when piped"
            yield {"name": "classic", "commands": "run, check", "what": about}
            for one in FORMATS:
                users = ("run",) * one.is_log + ("export",) + ("check",) * one.is_checked
                yield {"name": one.name, "commands": ", ".join(users), "what": one.about}
