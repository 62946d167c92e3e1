"""Random lawful runs with random faults: every format takes them, and every line is a known one."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain.core.run import simulate
from ghosttrain.exporters.formats import EXPORTERS
from ghosttrain.exporters.writing import Asked
from tests.exporters.machine import test_kernel, test_nccl, test_slurm, test_stderr
from tests.exporters.machine.files import files_of, lines_of
from tests.strategies import seeds, specs

# Drivers of other fabrics' NICs, which the fixed run does not have.
OTHER_LINKS = re.compile(
    r"(?:bnxt_en|efa|cxi_ss1) [0-9a-f]{4}:[0-9a-f]{2}:00\.0 \w+: "
    r"(?:Link (?:up|down)$|NIC Link is (?:Up|Down))"
    r"|hfi1 \S+: \w+: logical state changed to PORT_"
)
FABRICS = ("InfiniBand", "RoCE", "Ethernet", "EFA", "Slingshot", "Omni-Path")


@given(spec=specs(faults=True), seed=seeds, fabric=st.sampled_from(FABRICS))
def test_every_line_of_any_run_is_known(spec, seed, fabric):
    cluster = replace(spec.cluster, fabric=replace(spec.cluster.fabric, kind=fabric))
    run = simulate(replace(spec, cluster=cluster), seed)
    asked = Asked(run)
    last = ("", 0.0)
    for file, line in lines_of(files_of(asked, "kernel")):
        found = test_kernel.STAMP.match(line)
        assert found, line
        texts = (*test_kernel.TEXTS, OTHER_LINKS)
        assert any(pattern.match(found["text"]) for pattern in texts), line
        stamp = float(found["stamp"])
        assert file != last[0] or stamp >= last[1] or "Linux version" in line, line
        last = file, stamp
    for _, line in lines_of(files_of(asked, "stderr")):
        assert any(pattern.match(line) for pattern in test_stderr.LINES) or (
            line.startswith("[default")
        ), line
    for file, text in files_of(asked, "slurm").items():
        known = (test_slurm.AGENT, test_slurm.SRUN, test_slurm.STEPD, test_slurm.BLOCK)
        for line in text.splitlines():
            patterns = (test_slurm.CONTROLLER,) if file == "slurmctld.log" else known
            assert any(pattern.match(line) for pattern in patterns), line
    some = tuple(range(0, spec.cluster.gpus, 1 + spec.cluster.gpus // 5))
    test_nccl.assert_known([line for _, line in lines_of(files_of(Asked(run, gpus=some), "nccl"))])


@given(spec=specs(faults=True), seed=seeds)
def test_every_row_of_any_run_has_its_columns(spec, seed):
    run = simulate(spec, seed)
    times = np.sort(np.random.default_rng(seed % 2**32).uniform(0, run.end_s, 12))
    for name, columns in (("nvidia-smi", 14), ("nvidia-smi-dmon", 12)):
        exporter = EXPORTERS[name].exporter(Asked(run))
        block = run.telemetry(times, exporter.fields)  # type: ignore[attr-defined]
        for file, data in exporter.sample(block):  # type: ignore[attr-defined]
            for line in data.decode().splitlines():
                count = len(line.split(",") if file.endswith("csv") else line.strip("#").split())
                assert count == columns, line
    exporter = EXPORTERS["nvidia-smi-table"].exporter(Asked(run))
    block = run.telemetry(times, exporter.fields)  # type: ignore[attr-defined]
    for _, data in exporter.sample(block):  # type: ignore[attr-defined]
        lines = data.decode().splitlines()
        assert {len(line) for line in lines[1:]} <= {91}
