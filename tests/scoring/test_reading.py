"""Labels and alarms as files have them, and what is wrong with other files."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ghosttrain.core.errors import InputFileError
from ghosttrain.exporters import jsonl, label_table, labels
from ghosttrain.exporters.driver import export
from ghosttrain.exporters.formats import formats_of
from ghosttrain.exporters.writing import Asked
from ghosttrain.scoring.predictions import MOST_WARNINGS, read_alarms
from ghosttrain.scoring.truth import SCHEMAS, read_truth
from tests.exporters.runs import real_run
from tests.scoring.truths import LABELS, RUN_ROW, as_lines, incident, incident_row, truth

EVENTS = [
    {"event": "run_started", "time_s": 0.0, "schema": "ghosttrain.events/1", "seed": 7},
    {"event": "step", "time_s": 3.0, "step": 1},
    {"event": "fault_occurred", "time_s": 100.0, "fault": 1},
    *(
        {
            "event": "incident_labelled",
            "time_s": row["cleared_s"] or 10_000.0,
            "incident": row["id"],
            **{name: row[name] for name in ("entity", "node", "onset_s", "cleared_s", "benign")},
            "kind": row["class"],
        }
        for row in LABELS
        if row["kind"] == "incident"
    ),
    {"event": "run_finished", "time_s": 10_000.0, "reason": "completed"},
]


def lines_of(rows, *, compact=True):
    separators = (",", ":") if compact else None
    return "".join(json.dumps(row, separators=separators) + "\n" for row in rows)


@pytest.fixture
def given(tmp_path):
    def write(text, name="file"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def test_the_schemas_are_those_of_the_exporters():
    assert SCHEMAS == (labels.SCHEMA, jsonl.SCHEMA)


@pytest.mark.parametrize("compact", [True, False])
def test_labels_parquet_and_a_log_of_events_hold_the_same_truth(given, tmp_path, compact):
    table = tmp_path / "labels.parquet"
    pq.write_table(label_table.label_table(LABELS, ""), table)
    from_labels = read_truth(given(lines_of(LABELS, compact=compact), "a"))
    assert [i.number for i in from_labels.incidents] == [1, 2, 3, 4]
    assert from_labels.incidents[3].cleared_s is None
    assert (from_labels.seed, from_labels.end_s, from_labels.is_cut) == (7, 10_000.0, False)
    assert read_truth(str(table)) == from_labels
    assert read_truth(given(lines_of(EVENTS, compact=compact), "b")) == from_labels


def test_a_log_that_is_cut_short_ends_with_its_last_row(given):
    found = read_truth(given(lines_of(EVENTS[:4])))
    assert (found.end_s, found.is_cut, len(found.incidents)) == (400.0, True, 1)


def without(row, name):
    return {key: value for key, value in row.items() if key != name}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("hello\n", "line 1: is not JSON: 'hello'"),
        (as_lines(LABELS) + '{"kind": "inci', 'line 7: is not JSON: \'{"kind": "inci\''),
        ("[1]\n", "line 1: is no JSON object"),
        ("{}\n", "neither labels (kind run) nor a log of events"),
        (as_lines(LABELS[1:]), "neither labels (kind run) nor a log of events"),
        (as_lines([*LABELS, RUN_ROW]), "line 7: another run begins"),
        (as_lines([*LABELS, LABELS[1]]), "incident 1 is there twice"),
        (as_lines([*LABELS, {"kind": "odd"}]), "line 7: kind is 'odd'"),
        (as_lines([RUN_ROW | {"schema": "ghosttrain.labels/2"}]), "this version reads"),
        (as_lines([without(RUN_ROW, "end_s")]), "line 1: end_s is missing"),
        (as_lines([RUN_ROW, without(LABELS[1], "onset_s")]), "line 2: onset_s is missing"),
        (as_lines([RUN_ROW, without(LABELS[1], "benign")]), "line 2: benign is missing"),
        (as_lines([RUN_ROW, incident_row(1, -1.0, 5.0)]), "onset_s is -1 s, before run time 0"),
        (as_lines([RUN_ROW, incident_row(1, 9.0, 5.0)]), "cleared_s is 5 s, before 9 s"),
        (as_lines([RUN_ROW, incident_row(1, float("nan"), 5.0)]), "onset_s is nan"),
        (as_lines([RUN_ROW, incident_row(1, 10**400, None)]), "no finite number"),
        (as_lines([RUN_ROW, incident_row(1, 20_000.0, None)]), "after the run's end at 10000 s"),
        (as_lines([RUN_ROW, incident_row(1, 1.0, 2.0, entity=5)]), "entity is 5, no text"),
        (as_lines([RUN_ROW, incident_row(True, 1.0, 2.0)]), "id is True, no whole number"),
        (as_lines([RUN_ROW, incident_row(1, 1.0, 2.0, benign=0)]), "benign is 0, neither"),
        (lines_of([*EVENTS, EVENTS[0]]), "another run begins"),
        (b"PAR1 and not much more", "is damaged: no whole Parquet file"),
        (b"\xff\xfe\x00", "line 1: is not JSON"),
        ("[" * 100_000, "line 1: is not JSON"),
    ],
)
def test_what_is_no_truth_is_told_with_its_place(given, text, complaint):
    path = given(text)
    with pytest.raises(InputFileError) as error:
        read_truth(path)
    assert str(error.value).startswith(f"{path}: ")
    assert complaint in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_table_of_something_else_is_refused(tmp_path):
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "t.parquet")
    with pytest.raises(InputFileError, match="row 1: kind is missing"):
        read_truth(str(tmp_path / "t.parquet"))


KNOWN = truth(incident(1, 100.0, 400.0), incident(2, 1000.0, 1100.0, kind="my-own-fault"))


def test_alarms_of_json_lines_and_csv_are_the_same(given):
    as_json = given(
        '\ufeff{"start_s": 120, "end_s": 130.5, "class": "gpu-off-bus", "entity": "GPU-09"}\n\n'
        '{"time_s": 7.25, "confidence": 0.5, "class": null, "score": "mine"}\n',
        "a",
    )
    as_csv = given(
        "\ufeffstart_s,time_s,end_s,class,entity,confidence,note\r\n"
        '120,,130.5,gpu-off-bus,GPU-09,,"a\r\nb"\r\n'
        ",7.25,,,,0.5,\r\n",
        "b",
    )
    first, second = read_alarms(as_json, KNOWN).alarms
    assert (first.start_s, first.kind, first.entity, first.confidence) == (
        120.0,
        "gpu-off-bus",
        "gpu 9",
        None,
    )
    assert (second.start_s, second.kind, second.entity, second.confidence) == (
        7.25,
        None,
        None,
        0.5,
    )
    assert [a.line for a in (first, second)] == [1, 3]
    found = read_alarms(as_csv, KNOWN)
    assert [(a.start_s, a.kind, a.entity, a.confidence) for a in found.alarms] == [
        (a.start_s, a.kind, a.entity, a.confidence) for a in (first, second)
    ]
    assert [a.line for a in found.alarms] == [3, 4]
    assert found.warnings == ()


@pytest.mark.parametrize("text", ["", "\n\n", "start_s,class\n"])
def test_no_alarms_are_no_error(given, text):
    assert read_alarms(given(text), KNOWN).alarms == ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"start_s": 1}\nhello\n', "line 2: is not JSON: 'hello'"),
        ('{"start_s": 1}\n[1]\n', "line 2: is no JSON object"),
        ('[{"start_s": 1}]\n', "line 1: is no JSON object"),
        ("hello\n", "line 1: is neither a JSON object nor the header of a CSV"),
        ('{"end_s": 1}\n', "line 1: start_s is missing"),
        ('{"start_s": null}\n', "line 1: start_s is missing"),
        ('{"start_s": "12"}\n', "line 1: start_s is '12', no finite number"),
        ('{"start_s": true}\n', "line 1: start_s is True"),
        ('{"start_s": NaN}\n', "line 1: start_s is nan"),
        ('{"start_s": 1e999}\n', "line 1: start_s is inf"),
        ('{"start_s": -0.5}\n', "line 1: start_s is -0.5 s, before run time 0"),
        ('{"start_s": 10000.5}\n', "start_s is 10000.5 s, after the run's end at 10000 s"),
        ('{"start_s": 5, "end_s": 4}\n', "end_s is 4 s, before 5 s, where it begins"),
        ('{"start_s": 5, "end_s": 20000}\n', "end_s is 20000 s, after the run's end"),
        ('{"start_s": 5, "class": 79}\n', "class is 79, no text"),
        ('{"start_s": 5, "entity": " "}\n', "entity is ' ', no text"),
        ('{"start_s": 5, "confidence": 1.5}\n', "confidence is 1.5; it goes from 0 to 1"),
        ('{"start_s": 5, "confidence": -1}\n', "confidence is -1; it goes from 0 to 1"),
        ("start_s\n1\nx\n", "line 3: start_s is 'x', no finite number"),
        ("start_s\nnan\n", "line 2: start_s is nan"),
        ('start_s,class\n1,"a\n', "is no CSV"),
        (b"start_s,class\n1,\xff\n", "is not UTF-8 text"),
    ],
)
def test_alarms_that_cannot_be_are_told_with_their_line(given, text, complaint):
    path = given(text)
    with pytest.raises(InputFileError) as error:
        read_alarms(path, KNOWN)
    assert str(error.value).startswith(f"{path}: ")
    assert complaint in str(error.value)


def test_an_alarm_at_the_very_end_is_not_too_late_for_its_rounding(given):
    assert len(read_alarms(given('{"start_s": 10000.000001}\n'), KNOWN).alarms) == 1


def test_names_nobody_knows_are_told_once_and_stay_wrong(given):
    path = given(
        '{"start_s": 1, "class": "gpu-of-bus", "entity": "rack"}\n'
        '{"start_s": 2, "class": "gpu-of-bus", "entity": "rack"}\n'
        '{"start_s": 3, "class": "my-own-fault", "entity": "Fabric"}\n'
        '{"start_s": 4, "class": "my-own-falt"}\n'
    )
    found = read_alarms(path, KNOWN)
    assert found.warnings == (
        f"{path}: line 1: unknown fault 'gpu-of-bus': did you mean gpu-off-bus? (counts as wrong)",
        f"{path}: line 1: no entity 'rack': name one as in gpu 17, node 2, rack 0, fabric,"
        " storage or job (counts as wrong)",
        f"{path}: line 4: unknown fault 'my-own-falt': did you mean my-own-fault?"
        " (counts as wrong)",
    )
    assert [a.kind for a in found.alarms] == [
        "gpu-of-bus",
        "gpu-of-bus",
        "my-own-fault",
        "my-own-falt",
    ]
    assert found.alarms[2].entity == "fabric"


def test_a_class_may_go_by_any_name_of_the_catalogue(given):
    assert read_alarms(given('{"start_s": 1, "class": "Xid 79"}'), KNOWN).alarms[0].kind == (
        "gpu-off-bus"
    )


def test_a_flood_of_unknown_names_is_counted(given):
    rows = "".join(f'{{"start_s": 1, "class": "zq{n}"}}\n' for n in range(50))
    warnings = read_alarms(given(rows), KNOWN).warnings
    assert len(warnings) == MOST_WARNINGS + 1
    assert warnings[-1].endswith("45 more names are unknown")


def test_the_truth_of_a_window_begins_where_it_does(tmp_path):
    asked = Asked(real_run(faults="gpu-off-bus@8min:9"), start_s=300.0, stop_s=900.0)
    export(asked, tmp_path, formats_of("jsonl,labels,labels-parquet"))
    read = [read_truth(str(tmp_path / name)) for name in ("labels.jsonl", "labels.parquet")]
    for found in read:
        assert (found.start_s, found.end_s, len(found.incidents)) == (300.0, 900.0, 1)
    assert read_truth(str(tmp_path / "events.jsonl")).start_s == 300.0
