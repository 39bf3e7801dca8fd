"""Links into MLflow's UI, and the view that they open."""

import json
import re
from urllib.parse import unquote

from reports.mlflow_links import LOCAL, Links
from reports.names import method_name
from reports.page import summary
from reports.page.report import all_tables
from reports.tables.sweeps import page_tables
from tests.support.stored import tracker_of
from tests.support.studies import make_study


def test_the_ui_gets_a_view_of_the_cells(stored):
    tags = tracker_of(stored).client.get_experiment(tracker_of(stored).experiment_id).tags
    view = json.loads(tags["mlflow.sharedViewState.cells"])
    assert {"tags.`variant`", "tags.`backbone`", "metrics.`test/mae`"} <= set(view["selectedColumns"])
    link = Links(LOCAL, "7").study()
    assert link == f"{LOCAL}/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=cells"


def asked(link):
    """The filter of a link to a list of runs: tag -> value."""
    text = unquote(link.partition("searchFilter=")[2])
    return dict(re.findall(r"tags\.(\w+) = '([^']*)'", text))


def test_numbers_link_to_the_runs_behind_them():
    study = make_study(2, ("synthetic_mosi",), ("tfn",), ("none", "ms_mix"), samples=False)
    tables = [*all_tables(study, summary.compare_methods(study)), *page_tables(study)]
    for part in (part for table in tables if table.name != "table1_datasets" for part in table.parts):
        for row in (row for group in part.groups for row in group):
            texts = {column.title: value.text for column, value in zip(part.columns, row, strict=True)}
            for column, value in zip(part.columns, row, strict=True):
                if not value.link:
                    shows_a_mean = column.number and column.title.endswith(("↓", "↑", "Gain", "Seeds"))
                    assert not shows_a_mean, column.title
                    continue
                tags = asked(value.link)
                assert tags["dataset"] == "synthetic_mosi"
                if "Method" in texts and tags["kind"] == "cell":
                    assert method_name(tags["variant"]) == texts["Method"]
                    assert tags["complete"] == "true"
                if "Occlusion in" in texts:
                    assert tags["occlusion_protocol"] == texts["Occlusion in"]
                    assert ("train_ratio" in tags) == (texts["Occlusion in"] == "train")
    assert Links(LOCAL, "7").behind({"method": "powmix{tuned}"}).count("powmix") == 1
    assert asked(Links(LOCAL, "7").behind({"method": "powmix{tuned}"}))["method"] == "powmix"
