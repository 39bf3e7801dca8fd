"""The folder for a paper: a small parser of its LaTeX, its numbers against the CSV files, and LaTeX."""

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from matplotlib import pyplot as plt

from reports.page import summary
from reports.page.html import PageFigure
from reports.page.macros import letters, macros
from reports.page.paper import MAIN, MOST_ROWS, captioned, write_paper
from reports.page.report import all_tables
from reports.tables.sweeps import sweep_tables
from reports.tables.table import Column, Part, Table, Value
from tests.support.studies import empty_study, make_study

TWO = ("synthetic_mosi", "synthetic_sims")


def small(**changes):
    options = dict(datasets=TWO, backbones=("tfn", "lmf"), methods=("none", "mixup", "ms_mix"), samples=False)
    return make_study(**options | changes)


def written(study, folder):
    """The tables of a study; their folder for a paper is written, with a figure."""
    tables = [*all_tables(study, summary.compare_methods(study)), *sweep_tables(study)]
    figures = [PageFigure("figure4_sweeps", "Figure 4: Settings", "None.", "", {"pdf": "f.pdf"}, True)]
    if len(study.frame):
        drawing = plt.figure(figsize=(2, 2))
        drawing.savefig(folder / "figure8.pdf")
        plt.close(drawing)
        title, caption = "Figure 8: Gain of a_b & c", "50% of {x} at n = 3."
        figures.append(PageFigure("figure8_forest", title, caption, "", {"pdf": "figure8.pdf"}))
    paths = write_paper(study, tables, figures, folder)
    assert set(paths) == set((folder / "paper").iterdir())
    return tables


def parsed(folder):
    """Macro -> value; asserts what TeX asks of the files."""
    texts = {path.name: path.read_text() for path in folder.glob("*.tex")}
    for text in texts.values():
        plain = re.sub(r"\\[\\%&$#_{}]", "", text)
        plain = re.sub(r"%.*", "", plain)
        depth = 0
        for sign in plain:
            depth += {"{": 1, "}": -1}.get(sign, 0)
            assert depth >= 0
        assert depth == 0
        assert plain.count("$") % 2 == 0
        assert "^" not in re.sub(r"\$[^$]*\$", "", plain), "outside of mathematics"
        for environment in ("table*", "tabular", "figure*", "document"):
            assert plain.count(f"\\begin{{{environment}}}") == plain.count(f"\\end{{{environment}}}")
        for row in re.findall(r"\\midrule\n(.*?)\\bottomrule", text, re.DOTALL):
            counts = {len(re.findall(r"(?<!\\)&", line)) for line in row.splitlines() if " & " in line}
            assert len(counts) <= 1
    files = re.findall(r"\\(?:input|includegraphics(?:\[[^\]]*\])?)\{([^}]*)\}", texts[MAIN])
    assert len(set(files)) == len(files)
    assert set(files) == {path.name for path in folder.iterdir()} - {MAIN, "README.md"}
    labels = re.findall(r"\\label\{([^}]*)\}", "".join(texts.values()))
    assert len(set(labels)) == len(labels)
    found = re.findall(r"^\\newcommand\{\\(.*?)\}\{(.*)\}$", texts["results.tex"], re.MULTILINE)
    assert len(found) == texts["results.tex"].count("\\newcommand")
    names = [name for name, _ in found]
    assert all(re.fullmatch("[A-Za-z]+", name) for name in names)
    assert len(set(names)) == len(names)
    return dict(found)


def number(text):
    return float(re.sub(r"\\ensuremath\{<?(.*)\}", r"\1", text))


STUDIES = {
    "whole": small,
    "one seed": lambda: small(seeds=1),
    "no occlusion, ablation or sweep": lambda: small(
        ratios=(0.0,), train_ratios=(), ablation=False, sweeps=False
    ),
    "only sweeps": lambda: replace(small(), frame=small().frame[:0]),
    "names": lambda: small(
        datasets=("a_$b$_%&{x}", "größe \\alpha^2 #1~"),
        methods=("none", "no~ne", "c^_[2]", "情"),
        sweeps=False,
    ),
    "empty": empty_study,
}


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_gives_valid_files(name, tmp_path):
    tables = written(STUDIES[name](), tmp_path)
    found = parsed(tmp_path / "paper")
    if name != "names":  # signs that pdflatex may lack are only in a user's names
        assert all(path.read_text().isascii() for path in (tmp_path / "paper").glob("*.tex"))
    present = {path.stem for path in (tmp_path / "paper").glob("table_*")}
    expected = {
        "whole": {"table_occlusion", "table_ablation", "table_sweep_delta", "table_comparison"},
        "only sweeps": {"table_sweep_delta"},
    }
    assert expected.get(name, set()) <= present
    assert ("table_occlusion" in present) == any(t.name == "occlusion" and len(t) for t in tables)
    assert bool(found) == (name != "empty")
    if name == "whole" and shutil.which("latexmk"):
        command = ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", MAIN]
        subprocess.run(command, cwd=tmp_path / "paper", check=True, capture_output=True)


def test_a_macro_has_the_number_of_the_csv_file(tmp_path):
    tables = {table.name: table for table in written(small(), tmp_path)}
    found = parsed(tmp_path / "paper")
    rows = list(csv.DictReader(io.StringIO(tables["table2_mosi_mosei"].csv)))
    for row in rows:
        start = "MainSyntheticMosi" + "".join(map(letters, (row["backbone"], row["method"], row["metric"])))
        scale = 1 if row["metric"] in ("mae", "corr") else 100
        for column in ("mean", "std"):
            shown = number(found[start + column.title()])
            assert shown == pytest.approx(scale * float(row[column]), abs=0.5 * scale / (1000 * scale**0.5))
        assert found[f"{start}N"] == row["n"]
        assert found.get(f"{start}Verdict", "") == row["verdict"]
    for row in csv.DictReader(io.StringIO(tables["comparison"].csv)):
        start = "Comparison" + "".join(letters(row[key]) for key in ("dataset", "method", "metric"))
        for column in ("gain", "low", "high_seeds", "p_holm"):
            assert number(found[start + letters(column)]) == pytest.approx(float(row[column]), abs=0.006)
    assert "OcclusionSyntheticMosiTfnTestZeroPointFiveMsMixMaeMean" in found
    assert "SweepDeltaSyntheticMosiMisaMsMixDeltaZeroPointFourTestMae" in found
    assert any(name.startswith("AblationSyntheticMosiTfnMsMixSassSig") for name in found)


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("acc2_has0", "AccTwoHasZero"),
        ("ms_mix{delta:0.4}", "MsMixDeltaZeroPointFour"),
        ("synthetic_mosi", "SyntheticMosi"),
        ("12", "OneTwo"),
        ("a:-1", "AMinusOne"),
        ("", ""),
    ],
)
def test_names_are_spelled_with_letters(name, spelled):
    assert letters(name) == spelled


def test_equal_names_are_numbered():
    rows = "method,n\na_b,1\na-b,2\nA B,3\na_b_two,4\n"
    text = macros([Table("t", "t", [], csv=rows)])
    assert re.findall(r"\\newcommand(.*)", text) == [
        "{\\TABN}{1}",
        "{\\TABNTwo}{2}",
        "{\\TABNThree}{3}",
        "{\\TABTwoN}{4}",
    ]


def test_captions_state_counts_and_intervals_and_long_tables_are_split():
    rows = [[Value("x"), Value(str(3 + k % 2))] for k in range(MOST_ROWS)]
    part = Part([Column("Method"), Column("n", True)], [rows[:30], rows[:30], [*rows, *rows]], "Main")
    pages = captioned(Table("table4_ablation", "Table 4: t", [part])).parts
    assert [sum(map(len, page.groups)) for page in pages] == [30, 30, MOST_ROWS, MOST_ROWS]
    assert {page.title for page in pages} == {
        "Main: mean ± standard deviation over n = 3 to 4 seeds; ⁺ better, ⁻ worse than none by 95% intervals"
    }


def test_files_of_earlier_reports_are_removed_and_others_stay(tmp_path):
    (tmp_path / "paper").mkdir()
    for name in ("table_old.tex", "figure99.pdf", "main.pdf", "my.tex"):
        (tmp_path / "paper" / name).write_text("")
    study = empty_study()
    write_paper(study, [], [], tmp_path)
    left = {path.name for path in (tmp_path / "paper").iterdir()}
    assert left == {"main.tex", "results.tex", "README.md", "main.pdf", "my.tex"}
    readme = (tmp_path / "paper" / "README.md").read_text()
    assert "make benchmark" in readme
    write_paper(replace(study, study_file="seeds: [1]\n"), [], [], tmp_path)
    assert "python -m harness.benchmark REPORT/study.yaml" in (tmp_path / "paper" / "README.md").read_text()
