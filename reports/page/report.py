"""Writer of a study's report: tables, figures with their data, and the page."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
from threadpoolctl import threadpool_limits

from backbones import BACKBONES
from harness.cli import shell_command
from harness.study.description import STUDY_FILE
from methods import METHODS
from reports import commands
from reports.claims import answers as claims
from reports.claims.reader import read_claims
from reports.figures.parts import style
from reports.figures.parts.base import Figure
from reports.figures.registry import FIGURES
from reports.names import backbone_name, dataset_name
from reports.page import summary
from reports.page.claims import claim_rows, claims_table
from reports.page.departures import departures
from reports.page.html import Failure, PageFigure, Report, page
from reports.page.paper import write_paper
from reports.page.picture import pictures
from reports.runs.study import OUTCOMES, Study
from reports.tables import sweeps
from reports.tables.clips import clip_table
from reports.tables.cost import cost_table
from reports.tables.datasets import dataset_table
from reports.tables.places import place_table
from reports.tables.scores import score_table
from reports.tables.seed_means import ablation_numbers, main_numbers, occlusion_numbers
from reports.tables.table import Table, write_table
from reports.tables.videos import video_table

PAGE = "index.html"
FOLDERS = ("tables", "figures", "data")
REAL = ("mosi", "mosei", "sims", "simsv2")
READING = (
    "The numbers in the MS-Mix paper's tables were not available: Tables 1 to 5 follow our reading of their "
    "structure and hold this study's results."
)

PAPER = (
    "The folder paper beside this page holds tables and figures in LaTeX (main.tex), a macro for each number "
    "(results.tex), and the command that repeats the study (README.md)."
)


def order() -> tuple[str, ...]:
    """Return the names of data sets, backbones and methods in the order of tables; plugins come last."""
    return (*REAL, *(f"synthetic_{name}" for name in REAL), *BACKBONES, *METHODS)


def write(study: Study, folder: Path) -> list[Path]:
    """Write the report into a folder, remove files of an earlier report, and return the files."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    # With several threads, sums could differ in the last bits.
    with threadpool_limits(1), ThreadPoolExecutor() as threads:
        beside = {figure.name: threads.submit(figure.data, study) for figure in FIGURES if figure.beside}
        comparison = summary.compare_methods(study)
        answers = claims.answers(study, read_claims(study.claims))
        tables = [*all_tables(study, comparison), claims_table(answers, study)]
        every = [*tables, *sweeps.sweep_tables(study)]
        paths = [path for table in every for path in write_table(table, folder / "tables")]
        figures = []
        for figure in FIGURES:
            data = beside[figure.name].result() if figure.beside else figure.data(study)
            page_figure, figure_paths = _write_figure(figure, data, study, folder)
            figures.append(page_figure)
            paths += figure_paths
    report = _report(study, summary.sentences(study, comparison, order()), tables, figures, folder)
    report = replace(
        report,
        claims=claim_rows(answers, study),
        decisions=claims.decisions(answers),
        pictures=pictures(study, comparison, order()),
    )
    papers = write_paper(study, every, figures, folder)
    (folder / claims.FILE).write_text(claims.answers_json(answers, study), encoding="utf-8")
    (folder / PAGE).write_text(page(report), encoding="utf-8")
    if study.study_file:  # studies of earlier versions have none
        (folder / STUDY_FILE).write_text(study.study_file, encoding="utf-8")
        paths.append(folder / STUDY_FILE)
    files = {path for name in FOLDERS for path in (folder / name).iterdir() if not path.is_dir()}
    for stale in files - set(paths):
        stale.unlink()
    return [folder / PAGE, folder / claims.FILE, *paths, *papers]


def all_tables(study: Study, comparison: pd.DataFrame) -> list[Table]:
    """Return the report's tables except those of sweeps. comparison: see `summary.compare_methods`."""
    frame, kinds, name = study.frame, study.kinds, f"study {study.name}"
    judged = study.clips, study.margins
    main = main_numbers(frame, kinds, order(), *judged)
    sims, other = main["kind"] == "sims", main["kind"] == "score"
    mosi_title = f"Table 2: results in the metrics of MOSI and MOSEI, {name}"
    sims_title = f"Table 3: results in the metrics of CH-SIMS, {name}"
    ablation = ablation_numbers(frame, kinds, order(), *judged)
    ablation_title = f"Table 4: ablation of the components of a method, {name}"
    occlusion = _occluded(occlusion_numbers(frame, kinds, order(), *judged))
    occlusion_title = f"Results under occlusion, {name}"
    fill_mosi, fill_sims = commands.of_kinds(study, ("mosi", "mosei")), commands.of_kinds(study, ("sims",))
    return [
        *summary.comparison_tables(study, comparison, order()),
        dataset_table(study, order()),
        score_table(_part(main, ~sims & ~other), "table2_mosi_mosei", mosi_title, study, fill_mosi),
        score_table(_part(main, sims), "table3_sims", sims_title, study, fill_sims),
        *_without_classes(_part(main, other), study),
        score_table(ablation, "table4_ablation", ablation_title, study, commands.ablation(study)),
        *place_table(study, order()),
        cost_table(study, order()),
        score_table(occlusion, "occlusion", occlusion_title, study, commands.occluded(study)),
        clip_table(study, order()),
        video_table(study, order()),
    ]


def _without_classes(numbers: pd.DataFrame, study: Study) -> list[Table]:
    """Return the table of data sets on other label scales, if there are any."""
    if numbers.empty:
        return []
    title = f"Results on other label scales, study {study.name}"
    return [score_table(numbers, "other_scales", title, study)]


def _occluded(numbers: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers, or none if no input was occluded."""
    return numbers if (numbers["occlusion_ratio"] > 0).any() else _part(numbers, numbers["n"] < 0)


def _part(numbers: pd.DataFrame, mask: pd.Series) -> pd.DataFrame:
    part = numbers[mask].reset_index(drop=True)
    part.attrs = numbers.attrs
    return part


def _write_figure(
    figure: Figure, data: pd.DataFrame, study: Study, folder: Path
) -> tuple[PageFigure, list[Path]]:
    """Write a figure and its data, and return the page's figure and the files."""
    title = figure.title + place(data) + study.stand_in(list(dict.fromkeys(data["dataset"])))
    csv = folder / "data" / f"{figure.name}.csv"
    csv.write_text(data.to_csv(index=False, lineterminator="\n", float_format="%.10g"), encoding="utf-8")
    paths = _draw(figure, data, title, study, folder / "figures")
    files = {path.suffix[1:]: f"{path.parent.name}/{path.name}" for path in (*paths, csv)}
    svg = paths[style.ENDINGS.index("svg")].read_text(encoding="utf-8")
    caption = f"{figure.missing} {figure.fill(study)}" if data.empty else figure.caption(data)
    return PageFigure(figure.name, title, caption, svg, files, data.empty), [*paths, csv]


def place(data: pd.DataFrame) -> str:
    """Return a title's suffix that names backbone and data set if there is one of each, else empty."""
    if not {"backbone", "dataset"} <= set(data.columns):
        return ""
    places = data[["backbone", "dataset"]].drop_duplicates()
    if len(places) != 1:
        return ""
    return f", {backbone_name(places['backbone'].iloc[0])} on {dataset_name(places['dataset'].iloc[0])}"


def _draw(figure: Figure, data: pd.DataFrame, title: str, study: Study, folder: Path) -> list[Path]:
    with style.styled():
        if data.empty:
            drawing = style.placeholder(title, figure.missing, figure.fill(study))
        else:
            drawing = figure.draw(data, title, lambda param: commands.sweep(study, param))
        return style.save(drawing, folder, figure.name)


def _report(
    study: Study,
    sentences: Sequence[str],
    tables: Sequence[Table],
    figures: Sequence[PageFigure],
    folder: Path,
) -> Report:
    datasets = list(dict.fromkeys([*study.frame["dataset"].unique(), *study.trials["dataset"].unique()]))
    files = {
        table.name: {end: f"tables/{table.name}.{end}" for end in ("csv", "md", "tex")} for table in tables
    }
    return Report(
        title=f"Mixup in multimodal sentiment analysis: study {study.name}",
        study=study.name,
        synthetic=study.stand_in(datasets),
        counts=study.counts(),
        requested_note=_requested(study),
        summary=[*sentences, *study.warnings, *_real_data(study)],
        tables=[*tables, *sweeps.page_tables(study)],
        figures=figures,
        failures=_failures(study),
        notes=_notes(study),
        facts=study.facts,
        runs_link=study.links.study(),
        study_file=STUDY_FILE if study.study_file else "",
        ui=shell_command("ui", "reports.ui", study.name, study.located),
        table_files={**files, **sweeps.page_files(study, folder)},
    )


def _failures(study: Study) -> list[Failure]:
    outcomes = study.outcomes
    failures = outcomes[outcomes["state"].isin(["failed", "diverged", "missing"])][list(OUTCOMES[:4])]
    return [
        Failure(cell, state, reason, study.links.run(run_id) if run_id else "")
        for cell, state, reason, run_id in failures.itertuples(index=False, name=None)
    ]


def _notes(study: Study) -> list[tuple[str, list[str]]]:
    """Return headings and sentences of the section Notes."""
    notes = [("How to read the tables", [READING]), ("For a paper", [PAPER]), *_environments(study)]
    if study.settings:
        head = "Settings of backbones that differ from the published ones (in parentheses)"
        notes.append((head, list(study.settings)))
    cards = departures(study.outcomes["method"], study.outcomes["backbone"])
    return notes + [(f"{title}: departures from the paper or reference", texts) for title, texts in cards]


def _requested(study: Study) -> str:
    requests = study.outcomes[study.outcomes["requested"].astype(bool)]
    if requests.empty:
        return ""
    done = int((requests["state"] == "done").sum())
    others = len(study.outcomes) - len(requests)
    earlier = f"; {others} more cells are from earlier requests" if others else ""
    return f"{done} of the {len(requests)} cells in the last request are done{earlier}."


def _real_data(study: Study) -> list[str]:
    real = [entry for entry in study.datasets if entry["name"] not in study.synthetic]
    return [f"{dataset_name(entry['name'])} is real data, read from {entry['source']}." for entry in real]


def _environments(study: Study) -> list[tuple[str, list[str]]]:
    """Return a note on the environments if there are several devices, versions or precisions."""
    names = sorted(study.frame["environment"].unique())
    if len(names) < 2:
        return []
    warning = "Means in the tables mix environments; comparisons with none pair results of the same one."
    return [("Several environments", [*(f"{name}." for name in names), warning])]
