"""A small study, committed as CSV, gives the committed tables byte for byte.

The study in ``golden/`` is made up, with a hole, an undefined correlation, an ablation and data that MMSA has
published results of. After a wanted change, ``make test ARGS=--update`` writes the expected ones anew: read
their differences before committing them.
"""

import json

import pandas as pd

from reports.figures.registry import FIGURES
from reports.mlflow_links import LOCAL, Links
from reports.page import summary
from reports.page.report import all_tables, write
from reports.runs.study import Study
from reports.stats.settings import verdicts
from reports.tables.table import to_latex, to_markdown
from tests.support.paths import GOLDEN
from tests.support.scores import STILL
from tests.support.studies import labels

EXPECTED = GOLDEN / "tables"


def golden_study() -> Study:
    """The study of the CSV files."""
    frame = pd.read_csv(GOLDEN / "frame.csv")
    names = [labels(*pair) for pair in zip(frame["method"], frame["settings"], strict=True)]
    frame = frame.join(pd.DataFrame(names))
    trials = pd.read_csv(GOLDEN / "trials.csv", keep_default_na=False).astype({"seed": "Int64"})
    datasets = json.loads((GOLDEN / "datasets.json").read_text())
    return Study(
        name="golden",
        frame=frame,
        kinds={entry["name"]: entry["metrics"] for entry in datasets},
        trials=trials.assign(run_id=""),
        outcomes=pd.read_csv(GOLDEN / "outcomes.csv", keep_default_na=False),
        links=Links(LOCAL, "1"),
        datasets=datasets,
        synthetic=frozenset({"synthetic_sims", "synthetic_mosi"}),
        clips=STILL,
    )


def texts(study: Study) -> dict[str, str]:
    """File name -> content of every table."""
    found = {}
    for table in all_tables(study, summary.compare_methods(study)):
        endings = {"csv": table.csv, "md": to_markdown(table), "tex": to_latex(table)}
        found |= {f"{table.name}.{ending}": text for ending, text in endings.items()}
    return found


def test_the_tables_are_the_committed_ones_whatever_the_order_of_rows(update):
    if update:
        for path in EXPECTED.iterdir():
            path.unlink()
        for name, text in texts(golden_study()).items():
            (EXPECTED / name).write_text(text, encoding="utf-8")
    study = golden_study()
    study.frame[:] = study.frame.sample(frac=1, random_state=1).to_numpy()
    found = texts(study)
    assert set(found) == {path.name for path in EXPECTED.iterdir()}
    for name, text in found.items():
        assert text == (EXPECTED / name).read_text(encoding="utf-8"), name


def test_every_figure_and_the_page_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr("reports.figures.parts.style.ENDINGS", ("svg",))
    study = golden_study()
    write(study, tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert all(figure.title in page for figure in FIGURES)
    assert "diverged" in page
    assert "not finite after epoch 3" in page
    assert "study.yaml" not in page
    assert not (tmp_path / "study.yaml").exists(), "a study of an earlier version has no such file"
    assert all(verdict.best is not None for verdict in verdicts(study.trials))
