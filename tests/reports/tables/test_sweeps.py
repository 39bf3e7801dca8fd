"""The tables of sweeps as written files."""

import dataclasses
import io
import math
import re

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.runs.trials import load_trials
from reports.tables.sweeps import file_name, sweep_tables
from reports.tables.table import write_table
from tests.support.studies import empty_study
from tests.support.sweeps import SMALL, Sweep, delta_sweep

NAN = math.nan


def written(sweep, folder):
    """The files of the sweep's tables: CSV, Markdown, LaTeX."""
    folder.mkdir(exist_ok=True)
    study = dataclasses.replace(empty_study(), name=sweep.study, trials=load_trials(sweep))
    return [path for table in sweep_tables(study) for path in write_table(table, folder)]


def texts(sweep, folder):
    return [path.read_text(encoding="utf-8") for path in written(sweep, folder)]


def test_the_objective_is_shown_with_its_direction_and_no_sweep_writes_no_file(tmp_path):
    sweep = Sweep(objective="valid/corr").add({"delta": 0.2}, {"valid/corr": 0.6, "test/mae": 1.0})
    assert "valid corr ↑" in texts(sweep, tmp_path)[1]
    assert written(Sweep(), tmp_path / "none") == []


GOLDEN = """\
### Study s: sweep delta (synthetic stand-in data)

#### MS-Mix with MISA on synthetic MOSI

delta on MISA, synthetic MOSI: the setting matters beyond the noise between seeds: some are better than \
others (p = 0.0083; 5 settings, 2 seeds). On the validation split, the best setting is delta=0.2 (valid \
loss 0.455); the default, delta=0, has valid loss 0.550. On the test split, the best setting (delta=0.2) has \
MAE 0.555, the default 0.650 (difference -0.095, 95% interval over seeds -0.159 to -0.031, for other \
seeds and clips -0.159 to -0.031, n = 2): undecided. Of 6 settings 1 failed (first reason: no memory).

| Rank | delta | Seeds | valid loss ↓ | Test MAE ↓ | Test Corr ↑ | Note |
| ---: | ---: | ---: | ---: | ---: | ---: | --- |
"""


def test_files_start_as_written_by_hand_and_hold_the_same_settings_in_any_order_of_trials(tmp_path):
    sweep = delta_sweep(SMALL).add({"delta": 0.8}, state="failed", reason="no memory")
    files = written(sweep, tmp_path)
    assert [path.name for path in files] == ["sweep_delta.csv", "sweep_delta.md", "sweep_delta.tex"]
    numbers, markdown, latex = (path.read_text(encoding="utf-8") for path in files)
    assert markdown.startswith(GOLDEN)
    rows = markdown.removeprefix(GOLDEN).split("\n\n")[0].split("\n")
    assert rows[0] == "| 1 | 0.2 | 2 | 0.455 ± 0.064 | 0.555 ± 0.064 | 0.500 ± 0.000 |  |"
    assert rows[4].endswith("| 0.500 ± 0.000 | default |")
    assert rows[5:] == ["| – | 0.8 | 0 | – | – | – | failed |"]
    caption = "Study s: sweep delta, MS-Mix with MISA on synthetic MOSI (synthetic stand-in data)."
    said = "delta on MISA, synthetic MOSI: the setting matters"
    assert f"\\caption{{{caption}}}\n\\label{{tab:sweep-delta}}\n" in latex
    assert said in latex.partition("\\end{tabular}")[2]
    objectives = pd.read_csv(io.StringIO(numbers))["objective_value"]
    assert objectives.tolist()[:5] == sorted(SMALL.mean(axis=0))
    sweep.runs.reverse()
    sweep.cells = dict(reversed(sweep.cells.items()))
    assert texts(sweep, tmp_path) == [numbers, markdown, latex]
    # Intervals stand where three seeds have the number. Student's t: 4.3027 * 0.1 / sqrt(3).
    _, markdown, latex = texts(Sweep().add({"delta": 0.1}, (0.4, 0.5), (0.6, NAN), (0.5, 0.8)), tmp_path)
    shown = "0.500 ± 0.100 \\[0.252, 0.748\\] | 0.650 ± 0.212 | 0.500 ± 0.000 \\[0.500, 0.500\\]"
    assert f"| 1 | 0.1 | 3 | {shown} |" in markdown
    assert "from 3 seeds on" in latex
    # Only titles of synthetic data say so.
    real = Sweep(dataset="mosi").add({"delta": 0.1}, (1, 1), synthetic="false")
    assert not any("synthetic stand-in data" in text for text in texts(real, tmp_path))
    mixed = Sweep(runs=[*real.runs], cells={**real.cells}).add({"delta": 0.1}, (1, 1))
    _, markdown, latex = texts(mixed, tmp_path)
    assert markdown.count("(includes synthetic stand-in data)") == markdown.count("stand-in") == 1
    assert latex.count("(synthetic stand-in data)") == latex.count("stand-in") == 1


def test_hostile_names_leave_neither_the_folder_nor_their_cell(tmp_path):
    name = "../a b|c_d*e<f>&g\nr`s`"
    texts(Sweep(name=name, study=name, dataset=name, backbone=name).add({name: name}, (1, 1)), tmp_path / "t")
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert {path.parent for path in files} == {tmp_path / "t"}
    assert [path.suffix for path in files] == [".csv", ".md", ".tex"]
    shown, markdown = r"../a b\|c\_d\*e&lt;f&gt;&amp;g r\`s\`", files[1].read_text()
    assert f"### Study {shown}: sweep {shown} (" in markdown
    assert f"#### MS-Mix with {shown} on {shown}\n" in markdown
    assert f"| Rank | {shown} | Seeds |" in markdown
    assert f"| 1 | {shown} | 1 |" in markdown
    escaped = r"../a b\textbar{}c\_d*e\textless{}f\textgreater{}\&g r`s`".replace("*", "{*}")
    assert f"Rank & {escaped} & Seeds &" in files[2].read_text()
    assert f"1 & {escaped} & 1 &" in files[2].read_text()


@given(st.lists(st.text(), min_size=2, max_size=2, unique=True))
@settings(deadline=None)
def test_names_of_files_differ_and_are_safe(names):
    first, second = map(file_name, names)
    assert first != second
    assert re.fullmatch(r"[A-Za-z0-9_.~%-]*", first)
    assert len(file_name(names[0] * 100)) <= 150
    # Long names with a common start.
    assert file_name("x" * 200 + names[0]) != file_name("x" * 200 + names[1])


def test_settings_have_a_column_each_with_a_dash_where_one_has_none(tmp_path):
    sweep = Sweep().add({"alpha": 0.123456, "mode": "x"}, (1, 1)).add({"alpha": None}, (2, 1))
    sweep.add({"alpha": True, "heads": 8}, (3, 1))
    for text, start in zip(texts(sweep, tmp_path)[1:], ("| ", ""), strict=True):
        lines = text.replace(" & ", " | ").replace("--", "–").split("\n")
        rows = [line.removeprefix(start) for line in lines if re.match(r"(\| )?[123R]", line)]
        assert [row.split(" | ")[:5] for row in rows] == [
            ["Rank", "alpha", "heads", "mode", "Seeds"],
            ["1", "0.1235", "–", "x", "1"],
            ["2", "null", "–", "–", "1"],
            ["3", "true", "8", "–", "1"],
        ]
