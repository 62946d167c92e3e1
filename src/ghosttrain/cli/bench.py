"""`ghosttrain bench`: how fast this machine rehearses."""

from __future__ import annotations

import argparse

GROUPS = (
    "start",
    "cpu",
    "memory",
    "log",
    "telemetry",
    "moments",
    "bytes",
    "large",
    "month",
    "grid",
    "metrics",
    "jsonl",
    "parquet",
    "export",
    "tensorboard",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `bench`."""
    parser.add_argument(
        "group",
        nargs="*",
        metavar="GROUP",
        help=f"what to measure (default: all): {', '.join(GROUPS)}",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def execute(args: argparse.Namespace) -> int:
    """Measure; the exit code is 1 when a goal is missed."""
    from ghosttrain.bench import core, exports, metrics, moments, process, trackers
    from ghosttrain.core.errors import RequestError

    benches = {
        "start": process.bench_start,
        "cpu": process.bench_cpu,
        "memory": process.bench_memory,
        "log": core.bench_plain_log,
        "telemetry": core.bench_telemetry,
        "moments": moments.bench_moments,
        "bytes": core.bench_same_bytes,
        "large": core.bench_large_run,
        "month": core.bench_realistic_month,
        "grid": core.bench_grid,
        "metrics": metrics.bench_metrics,
        "jsonl": exports.bench_jsonl,
        "parquet": exports.bench_parquet,
        "export": exports.bench_export_memory,
        "tensorboard": trackers.bench_tensorboard,
    }
    assert tuple(benches) == GROUPS
    for name in args.group:
        if name not in benches:
            raise RequestError(f"unknown group {name!r}: there are {', '.join(GROUPS)}")
    results = []
    for name in args.group or GROUPS:
        for result in benches[name]():
            results.append(result)
            if not args.json:
                bound = "at most" if result.at_most else "at least"
                mark = "reached" if result.reached else "MISSED"
                print(
                    f"{mark:<8} {result.value:>12,.3f} {result.unit:<12}"
                    f"{bound} {result.goal:,g}: {result.name}"
                    + (f" ({result.note})" if result.note else ""),
                    flush=True,
                )
    if args.json:
        import json
        from dataclasses import asdict

        print(json.dumps([asdict(r) | {"reached": r.reached} for r in results], indent=2))
    return 0 if all(r.reached for r in results) else 1
