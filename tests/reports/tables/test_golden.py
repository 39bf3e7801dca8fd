"""A small study, committed as CSV, gives the committed tables byte for byte.

The study in ``golden/`` is made up, with a hole, an undefined correlation, an ablation and data that MMSA has
published results of. After a wanted change, ``make test ARGS=--update`` writes the expected ones anew: read
their differences before committing them. That their numbers are right is checked here by sums written out.
"""

import csv
import json
import math
import statistics

import pandas as pd
import pytest

from reports.figures.registry import FIGURES
from reports.mlflow_links import LOCAL, Links
from reports.page import summary
from reports.page.report import all_tables, write
from reports.stats.settings import verdicts
from reports.study import Study
from reports.tables.table import to_latex, to_markdown
from tests.support.paths import GOLDEN
from tests.support.studies import labels

EXPECTED = GOLDEN / "tables"


def golden_study() -> Study:
    """The study of the CSV files."""
    frame = pd.read_csv(GOLDEN / "frame.csv")
    names = [labels(*pair) for pair in zip(frame["method"], frame["settings"], strict=True)]
    frame = frame.join(pd.DataFrame(names))
    datasets = json.loads((GOLDEN / "datasets.json").read_text())
    return Study(
        name="golden",
        frame=frame,
        kinds={entry["name"]: entry["metrics"] for entry in datasets},
        trials=pd.read_csv(GOLDEN / "trials.csv", keep_default_na=False).astype({"seed": "Int64"}),
        outcomes=pd.read_csv(GOLDEN / "outcomes.csv", keep_default_na=False),
        links=Links(LOCAL, "1"),
        datasets=datasets,
        synthetic=frozenset({"synthetic_sims", "synthetic_mosi"}),
    )


def texts(study: Study) -> dict[str, str]:
    """File name -> content of every table."""
    found = {}
    for table in all_tables(study, summary.compare_methods(study)):
        endings = {"csv": table.csv, "md": to_markdown(table), "tex": to_latex(table)}
        found |= {f"{table.name}.{ending}": text for ending, text in endings.items()}
    return found


def test_the_tables_are_the_committed_ones(update):
    found = texts(golden_study())
    if update:
        for path in EXPECTED.iterdir():
            path.unlink()
        for name, text in found.items():
            (EXPECTED / name).write_text(text, encoding="utf-8")
    assert set(found) == {path.name for path in EXPECTED.iterdir()}
    for name, text in found.items():
        assert text == (EXPECTED / name).read_text(encoding="utf-8"), name


def test_rows_in_another_order_change_no_byte():
    study, shuffled = golden_study(), golden_study()
    shuffled.frame[:] = shuffled.frame.sample(frac=1, random_state=1).to_numpy()
    assert texts(shuffled) == texts(study)


def values(dataset, backbone, method, metric):
    """Defined clean test scores in the CSV, by hand."""
    wanted = dict(dataset=dataset, backbone=backbone, method=method, metric=metric, settings="{}")
    wanted |= dict(split="test", occlusion_protocol="test", occlusion_ratio="0.0")
    with (GOLDEN / "frame.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if wanted.items() <= row.items()]
    return {row["seed"]: float(row["value"]) for row in rows if row["value"] != "nan"}


@pytest.mark.parametrize(
    ("dataset", "backbone"), [("mosi", "tfn"), ("mosi", "misa"), ("synthetic_sims", "tfn")]
)
@pytest.mark.parametrize("method", ["none", "powmix", "ms_mix"])
def test_means_and_marks_by_hand(dataset, backbone, method):
    name = "table3_sims" if dataset == "synthetic_sims" else "table2_mosi_mosei"
    lines = (EXPECTED / f"{name}.md").read_text().splitlines()
    header = next(line for line in lines if line.startswith("| Dataset")).split(" | ")
    title = f"| {dataset} | {backbone} | {method} |".replace("_", "\\_")
    [line] = [line for line in lines if line.startswith(title)]
    for metric, heading in (("mae", "MAE ↓"), ("corr", "Corr ↑")):
        shown = line.strip("| ").split(" | ")[[h.strip("| ") for h in header].index(heading)]
        ours, none = (values(dataset, backbone, m, metric) for m in (method, "none"))
        mean, spread = statistics.fmean(ours.values()), statistics.stdev(ours.values())
        assert f"{mean:.3f} ± {spread:.3f}" in shown.replace("*", "").replace("<u>", "").replace("</u>", "")
        differences = [ours[seed] - none[seed] for seed in ours if seed in none]
        # Student's t of two degrees of freedom.
        half = 4.30265 * statistics.stdev(differences) / math.sqrt(3) if len(differences) == 3 else math.inf
        centre = statistics.fmean(differences) * (-1 if metric == "mae" else 1)
        assert ("⁺" in shown) == (method != "none" and centre - half > 0)
        assert ("⁻" in shown) == (method != "none" and centre + half < 0)


def test_a_hole_an_undefined_value_and_published_results_show():
    main, sims, ablation = (
        (EXPECTED / f"{name}.md").read_text()
        for name in ("table2_mosi_mosei", "table3_sims", "table4_ablation")
    )
    published = "tfn | none (published)"
    wanted = [("misa | powmix", " †1/3 |"), ("misa | ms\\_mix", "| ms\\_mix | 2 |")]
    for name, shown in (*wanted, (published, "| 77.99 |"), (published, "| 0.947 | 0.673 |")):
        [row] = [line for line in main.splitlines() if line.startswith(f"| mosi | {name} |")]
        assert shown in row
    assert "synthetic" not in main
    assert "published" not in sims
    assert "(synthetic stand-in data)" in sims.splitlines()[0]
    assert "misa" not in ablation, "nothing was switched off there"
    for name in ("none", "ms\\_mix", "ms\\_mix\\[sass\\]", "ms\\_mix\\[\\]"):
        assert f"| mosi | tfn | {name} |" in ablation
    assert "powmix" not in ablation


def test_every_figure_and_the_page_of_it(tmp_path):
    study = golden_study()
    write(study, tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert all(figure.title in page for figure in FIGURES)
    assert "diverged" in page
    assert "not finite after epoch 3" in page
    assert all(verdict.best is not None for verdict in verdicts(study.trials))
