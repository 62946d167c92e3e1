"""What machines write of every kind of fault, read by strict grammars of the real programs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ghosttrain import catalog
from ghosttrain.core.events import MessageKind, MessageLogged
from ghosttrain.exporters.writing import Asked
from tests.exporters.machine.files import KINDS, faulty_run, files_of
from tests.real_formats import job_output, kernel_log
from tests.real_formats.lines import Findings, Grammar

JOB = Grammar(job_output.KINDS)


def of_job(text: str, findings: Findings) -> None:
    job_output.check(JOB.read(text, findings), findings, year=2026)


@pytest.mark.parametrize("kind", KINDS)
def test_launchers_and_the_scheduler_write_what_the_real_ones_would(kind: str):
    findings = Findings()
    for file, text in files_of(Asked(faulty_run(kind)), "slurm").items():
        if file != "slurmctld.log":
            of_job(text, findings)
    assert findings.told == []


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_write_what_real_ones_would(kind: str):
    findings = Findings()
    for text in files_of(Asked(faulty_run(kind)), "kernel").values():
        kernel_log.read(text, findings)
    assert findings.told == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if catalog.fault_kind(kind).xids])
def test_telemetry_has_an_xid_from_the_kernels_line_on(kind: str):
    """Not only from the end of the step in which it came; a GPU that is lost tells nothing."""
    run, found = faulty_run(kind), {}
    for event in run.events(0.0, math.inf, sample_every=1000):
        if isinstance(event, MessageLogged) and event.message is MessageKind.XID:
            found[event.time_s, event.rank] = event.code
    assert found
    for (time_s, rank), code in found.items():
        now = run.telemetry(np.array([time_s + 1e-3]), ("xid",))
        if rank not in now.lost[0]:
            assert now.columns["xid"][0, rank] == code
