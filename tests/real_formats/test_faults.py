"""What machines write of every kind of fault, read by strict grammars of the real programs."""

from __future__ import annotations

import pytest

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
