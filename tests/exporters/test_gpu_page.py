"""The GPUs' part of a page: what dcgm-exporter would write, byte for byte where it matters."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families as text_families

from ghosttrain.core.errors import SpecError
from ghosttrain.core.run import Run
from ghosttrain.exporters.prometheus import gpu_page
from ghosttrain.exporters.prometheus.dcgm import Dialect, chosen_metrics
from tests.exporters.pages import (
    ENERGY,
    GPU_LINE,
    POWER,
    ROWS,
    TEMP,
    UTIL,
    XID,
    page,
    small_run,
    state,
)

# Lines of a published page: dcgm-exporter 4 on a vGPU of an A100, in the conformance record of a
# Kubernetes platform (cncf/k8s-ai-conformance, accelerator metrics).
PUBLISHED = """\
# HELP DCGM_FI_DEV_SM_CLOCK SM clock frequency (in MHz).
# TYPE DCGM_FI_DEV_SM_CLOCK gauge
DCGM_FI_DEV_SM_CLOCK{gpu="0",UUID="GPU-f809e614-a528-4083-acbf-334600000000",pci_bus_id="00000000:03:00.0",device="nvidia0",modelName="GRID A100-8C",Hostname="worker-wn7j2",DCGM_FI_DRIVER_VERSION="580.65.06"} 1410
# HELP DCGM_FI_DEV_XID_ERRORS Value of the last XID error encountered.
# TYPE DCGM_FI_DEV_XID_ERRORS gauge
DCGM_FI_DEV_XID_ERRORS{gpu="0",UUID="GPU-f809e614-a528-4083-acbf-334600000000",pci_bus_id="00000000:03:00.0",device="nvidia0",modelName="GRID A100-8C",Hostname="worker-wn7j2",DCGM_FI_DRIVER_VERSION="580.65.06",err_code="0",err_msg="No Error"} 0
"""  # noqa: E501 - as published


def shape(text: str) -> dict[str, tuple[str, str, list[str], str]]:
    """By family: its type, HELP, the order of labels, and the form of labels' values."""
    found = {}
    kind, about = {}, {}
    for line in text.splitlines():
        if line.startswith("# HELP "):
            _, _, name, about[name] = line.split(" ", 3)
        elif line.startswith("# TYPE "):
            _, _, name, kind[name] = line.split(" ")
        else:
            name, labels = line.partition("{")[0], re.findall(r'(\w+)="([^"]*)"', line)
            uuid, bus = dict(labels)["UUID"], dict(labels)["pci_bus_id"]
            form = re.sub(r"[0-9a-f]", "x", uuid) + re.sub(r"[0-9A-F]", "X", bus)
            found[name] = (kind[name], about[name], [key for key, _ in labels], form)
    return found


def test_a_page_has_the_shape_of_a_published_one():
    clock = type(TEMP)(
        "DCGM_FI_DEV_SM_CLOCK", "sm_clock_mhz", "gauge", "SM clock frequency (in MHz)."
    )
    telemetry = state(columns={"sm_clock_mhz": np.full((1, 16), 1410)})
    ours = shape(page(telemetry, rows=(clock, XID), node=0))
    assert ours == shape(PUBLISHED)


def test_lines_read_as_written_down():
    lines = page(state(), rows=(TEMP, POWER), node=1).splitlines()
    assert lines[:2] == [
        "# HELP DCGM_FI_DEV_GPU_TEMP GPU temperature (in C).",
        "# TYPE DCGM_FI_DEV_GPU_TEMP gauge",
    ]
    assert re.fullmatch(
        r'DCGM_FI_DEV_GPU_TEMP\{gpu="1",UUID="GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",'
        r'pci_bus_id="00000000:43:00\.0",device="nvidia1",modelName="NVIDIA H100 80GB HBM3",'
        r'Hostname="gpu-0001",DCGM_FI_DRIVER_VERSION="[\d.]+"\} 49',
        lines[3],
    )
    # Doubles have six decimals, and the driver's milliwatts are whole: float32 does not show.
    assert lines[13].endswith("} 609.424000")
    assert all(GPU_LINE.match(line) for line in lines if not line.startswith("#"))


def test_pci_addresses_have_capitals_as_nvml_prints_them():
    assert 'pci_bus_id="00000000:9D:00.0"' in page(state(), rows=(TEMP,))


def test_every_gpu_has_its_own_value_in_every_piece(monkeypatch):
    """Pieces are cut anywhere, also within a family and beside an Xid's three holes."""
    xids = np.zeros((1, 16), dtype=int)
    xids[0, 3] = 79
    telemetry = state(columns={"xid": xids})
    whole = page(telemetry)
    for lines in (1, 2, 3, 7, 16, 17, 50):
        monkeypatch.setattr(gpu_page, "LINES_A_PIECE", lines)
        assert page(telemetry) == whole
    temps = re.findall(r"^DCGM_FI_DEV_GPU_TEMP\{.*\} (\d+)$", whole, re.MULTILINE)
    assert temps == [str(40 + g) for g in range(16)]


def test_families_come_in_the_order_of_their_fields_numbers():
    names = [row.name for row in chosen_metrics("all", ROWS[::-1])]
    assert names == [row.name for row in ROWS]


@pytest.mark.parametrize(
    ("words", "count"),
    [("default", 5), ("profiling", 1), ("default,profiling", 6), ("all", 6), (f"{TEMP.name}", 1)],
)
def test_metrics_are_chosen_by_list_or_name(words, count):
    assert len(chosen_metrics(words, ROWS)) == count


@pytest.mark.parametrize("words", ["", ",", "defualt", "DCGM_FI_DEV_GPU_TMP", "x" * 10_000])
def test_metrics_that_are_none_are_refused(words):
    with pytest.raises(SpecError) as refused:
        chosen_metrics(words, ROWS)
    assert len(str(refused.value)) < 250


def test_a_near_name_is_offered():
    with pytest.raises(SpecError, match="did you mean DCGM_FI_DEV_GPU_TEMP"):
        chosen_metrics("dcgm_fi_dev_gpu_tmp", ROWS)


def test_the_hosts_label_follows_the_release():
    assert ',Hostname="gpu-0000"' in page(state(), release="4.5.3-4.8.2")
    assert ',hostname="gpu-0000"' in page(state(), release="4.6.0-4.9.0")
    assert Dialect.of("4.8.2") == Dialect.of("4.5.3-4.8.2")


@pytest.mark.parametrize("release", ["", "latest", "3.3.5-3.4.0", "4.8", "4.8.2; drop", "9" * 5000])
def test_a_release_that_is_none_or_too_old_is_refused(release):
    with pytest.raises(SpecError, match="give a release from"):
        Dialect.of(release)


def test_a_lost_gpu_vanishes_from_every_family():
    text = page(state(lost=((9,),)))
    gpus = [line for line in text.splitlines() if 'Hostname="gpu-0001"' in line]
    assert len(gpus) == 7 * len(ROWS)
    assert not any('gpu="1"' in line for line in gpus)
    assert " 609.424000" not in text


def test_a_node_that_is_down_is_left_out_and_a_page_without_gpus_has_no_families():
    assert 'Hostname="gpu-0001"' not in page(state(nodes_down=((1,),)))
    assert page(state(nodes_down=((0, 1),))) == ""
    assert page(state(nodes_down=((1,),)), node=1) == ""


def test_blank_values_are_skipped_and_the_others_stay_with_their_gpus():
    power = state().columns["power_w"].copy()
    power[0, 2] = np.nan
    energy = state().columns["energy_mj"].copy()
    energy[0, 5] = 0x7FFFFFFFFFFFFFF2  # DCGM_INT64_NOT_SUPPORTED
    text = page(state(columns={"power_w": power, "energy_mj": energy}))
    found = {
        (f.name, s.labels["gpu"], s.labels["Hostname"]): s.value
        for f in text_families(text)
        for s in f.samples
    }
    assert ("DCGM_FI_DEV_POWER_USAGE", "2", "gpu-0000") not in found
    assert found["DCGM_FI_DEV_POWER_USAGE", "3", "gpu-0000"] == 603.424
    assert len(found) == 16 * len(ROWS) - 2
    nobody = np.full((1, 16), np.nan, np.float32)
    assert "POWER" not in page(state(columns={"power_w": nobody}))


def test_a_metric_whose_field_nobody_measures_is_left_out():
    telemetry = state()
    del telemetry.columns["energy_mj"]
    assert "ENERGY" not in page(telemetry)


def test_an_xid_says_what_it_means():
    xids = np.array([[0, 79, 94, 171] + [0] * 12])
    lines = [line for line in page(state(columns={"xid": xids})).splitlines() if "XID" in line]
    assert lines[2].endswith(',err_code="0",err_msg="No Error"} 0')
    assert lines[3].endswith(',err_code="79",err_msg="GPU has fallen off the bus"} 79')
    assert lines[4].endswith(',err_code="94",err_msg="Contained ECC error"} 94')
    assert lines[5].endswith(',err_code="171",err_msg="Unknown Error"} 171')


def test_mappings_add_their_labels_sorted_among_those_of_an_xid():
    text = page(state(), mapping="kubernetes", node=1)
    assert re.search(r'container="pytorch",namespace="training",pod="[\w-]+-worker-1"\} 48', text)
    assert ',container="pytorch",err_code="0",err_msg="No Error",namespace="training",pod=' in text
    assert re.search(r',hpc_job="\d+"\} 48', page(state(), mapping="slurm", node=1))


def test_openmetrics_calls_counters_without_total_unknown_and_keeps_their_names():
    text = page(state(), rows=(ENERGY, TEMP, UTIL), openmetrics=True) + "# EOF\n"
    kinds = {f.name: f.type for f in openmetrics_families(text)}
    assert kinds[ENERGY.name] == "unknown"
    assert kinds[TEMP.name] == "gauge"
    # prometheus_client's text parser appends _total to such names: compare what is written.
    plain = page(state(), rows=(ENERGY, TEMP, UTIL)).splitlines()
    samples = [line for line in plain if not line.startswith("#")]
    assert samples == [line for line in text.splitlines() if not line.startswith("#")]


def test_pages_of_nodes_are_the_whole_page_cut_up():
    whole = {line for line in page(state()).splitlines() if not line.startswith("#")}
    nodes = [line for n in (0, 1) for line in page(state(), node=n).splitlines() if line[0] != "#"]
    assert len(nodes) == len(whole) == 16 * len(ROWS)
    assert set(nodes) == whole


def test_spares_bring_their_own_names():
    """After a swap the place has the spare's host name and UUIDs; the others keep theirs."""
    run = small_run()
    swapped = Run(run.plan, replace(run.timeline, swaps=((2, 1, 2),)), run.seed)
    before = page(state(), run=swapped, rows=(TEMP,))
    after = page(state(attempt=np.array([2])), run=swapped, rows=(TEMP,))
    assert 'Hostname="gpu-0001"' in before
    assert 'Hostname="gpu-0001"' not in after
    assert after.count('Hostname="gpu-0002"') == 8
    assert before.splitlines()[:10] == after.splitlines()[:10]
    assert not set(re.findall(r'UUID="([^"]+)"', after)[8:]) & set(
        re.findall(r'UUID="([^"]+)"', before)
    )
