"""The rows of reports for tuned settings, and for the cells of sweeps."""

import json

import numpy as np
import pandas as pd
import pytest

from harness.config.tuned import tuned_label
from harness.errors import UserError
from harness.metrics import METRICS
from harness.tracking.tags import Trial
from harness.tracking.tracker import Tracker
from harness.train.result import Predictions, Result
from reports import export
from reports.runs.frame import EXPORT, SCORES, TRIAL, load_frame, metric_kinds
from reports.tables.seed_means import main_numbers, occlusion_numbers
from tests.support.cells import make_cell, with_changes
from tests.support.studies import as_latex, as_markdown, score_rows

# Of runs in MLflow


@pytest.fixture
def logged(var_dir):
    """Log some cells of the study "s" as complete, and get its tracker."""
    tracker = Tracker(None, var_dir, "s")
    names = ("acc2_has0", "f1_has0", "acc2_non0", "f1_non0", "acc5", "acc7", "mae", "corr", "loss")
    scores = {split: dict.fromkeys(names, 0.5) for split in ("valid", "test")}
    clips = Predictions(np.array(["a"]), np.zeros(1, "f4"), {0.0: np.ones(1, "f4")})

    def log(*entries):
        for cell, tags, started in entries:
            result = Result("complete", scores, predictions=clips, started=started)
            tracker.finish(tracker.log(cell, result, tags), result)
        return tracker

    return log


def test_the_frame_says_which_cells_are_tuned_and_which_of_them_outdated(logged):
    """Outdated: of a file that another replaced, by the latest start, whatever the order of the log."""
    entries = [
        *((make_cell(seed=seed), "old") for seed in (1, 2)),
        (make_cell(seed=3), None),
        (make_cell(backbone="lmf"), "old"),
        (make_cell(dataset="mosei"), "old"),
        (make_cell("ms_mix"), "old"),
        (make_cell(seed=4), "new"),
    ]
    cells = [cell for cell, _ in entries]
    order = (6, 0, 1, 2, 3, 4, 5)
    tags = [
        {"tuned": digest, "tuned_backbone": "false", "label": tuned_label(cell.method)} if digest else {}
        for cell, digest in entries
    ]
    tags[4]["tuned_backbone"] = "true"
    frame = load_frame(logged(*((cells[k], tags[k], 10.0 + k) for k in order)))
    assert tuple(frame.columns) == SCORES
    wanted = {"tuned": {0, 1, 3, 4, 5, 6}, "tuned_backbone": {4}, "outdated": {0, 1}}
    for name, places in wanted.items():
        assert frame[name].dtype == bool
        assert set(frame[frame[name]]["cell_id"]) == {cells[k].cell_id for k in places}
    numbers = main_numbers(frame, {"mosi": "mosi", "mosei": "mosi"})
    mae = numbers[(numbers["metric"] == "mae") & (numbers["dataset"] == "mosi")]
    counts = mae[mae["n"] > 0].set_index(["backbone", "method"])["n"].to_dict()
    assert counts == {
        ("tfn", "powmix"): 4,
        ("tfn", "powmix{tuned}"): 1,
        ("lmf", "powmix{tuned}"): 1,
        ("lmf", "powmix"): 1,
        ("tfn", "ms_mix{tuned}"): 1,
        # A search that ends at the defaults has trained the method without tuning, too.
        ("tfn", "ms_mix"): 1,
    }
    assert numbers.attrs["outdated"] == 2


def log_trial(tracker, sweep, number, params, cells, state="complete"):
    values = dict(search=f"s/{sweep}", number=number, default=False, state=state, objective="valid/loss")
    values |= dict(base=cells[0], values=params, value=0.5, metrics={}, started=0.0)
    tracker.log_trial(Trial(sweep, cells={cell.seed: cell.cell_id for cell in cells}, **values))


def test_cells_of_sweeps_stay_out_unless_a_sweep_is_asked_for(logged, tmp_path, capsys):
    """A sweep's export has all cells of its trials."""
    cells = [make_cell("none", seed=seed, dataset="mosi" if seed else "mosei") for seed in range(5)]
    mix = with_changes(make_cell("powmix"), {"alpha": 0.75})
    lost, alone = make_cell("none", seed=8), make_cell("none", seed=9)
    tags = [{"sweep": "rate"}, {}, {"sweep": "other"}, {"sweep": "rate"}, {}, {}, {"sweep": "rate"}]
    tracker = logged(*((c, t, 0.0) for c, t in zip([*cells, mix, alone], tags, strict=True)))
    log_trial(tracker, "rate", 0, {"learning_rate": 0.5}, [cells[0], cells[1], lost])
    log_trial(tracker, "rate", 1, {"learning_rate": 0.25}, [cells[2], cells[0]], state="failed")
    log_trial(tracker, "rate", 2, {"learning_rate": 0.25}, [cells[2]])
    log_trial(tracker, "rate", 3, {"sigma": 2.0}, [mix])
    log_trial(tracker, "copy", 0, {"dropout": 0.0}, [cells[2]])
    assert "alpha" in mix.variant
    wanted = {
        "rate": {
            # Of equal trials the complete one is named, if it has the cell.
            (cells[0], '{"learning_rate": 0.5}', "rate", 0),
            (cells[0], '{"learning_rate": 0.25}', "rate", 1),
            (cells[1], '{"learning_rate": 0.5}', "rate", 0),
            (cells[2], '{"learning_rate": 0.25}', "rate", 2),
            (mix, json.dumps({**mix.variant, "sigma": 2.0}, sort_keys=True), "rate", 3),
        },
        "copy": {(cells[2], '{"dropout": 0.0}', "copy", 0)},
    }
    asked = {f"sweep={sweep}": rows for sweep, rows in wanted.items()}
    asked["sweeps=true"] = wanted["rate"] | wanted["copy"]
    out, clips = tmp_path / "a.csv", tmp_path / "a.parquet"
    given = ["study=s", f"var_dir={tracker.var_dir}", f"out={out}", f"predictions={clips}"]
    for argument, pairs in asked.items():
        assert export.main([*given, argument]) == 0
        numbers = pd.read_csv(out)
        assert tuple(numbers.columns) == (*EXPORT, *TRIAL)
        counts = numbers.groupby(["cell_id", "settings", "sweep", "trial"]).size().to_dict()
        assert counts == {(cell.cell_id, *rest): 18 for cell, *rest in pairs}
        ids = sorted({cell.cell_id for cell, *_ in pairs})
        assert pd.read_parquet(clips)["cell_id"].tolist() == ids
        assert f"of {len(ids)} cells" in capsys.readouterr().out
    assert export.main([*given, "sweeps=true", "sweep=rate"]) == 2
    assert "Give sweeps=true for all sweeps or sweep=rate for one" in capsys.readouterr().err
    assert export.main([*given, "sweep=raet"]) == 2
    assert capsys.readouterr().err == (
        "Error: Unknown sweep 'raet'; allowed: copy, rate. Did you mean 'rate'?\n"
    )
    assert set(load_frame(tracker)["cell_id"]) == {cells[1].cell_id, cells[4].cell_id, mix.cell_id}
    assert metric_kinds(tracker, None) == {"mosi": "mosi"}
    assert metric_kinds(tracker, "rate") == {"mosi": "mosi", "mosei": "mosi"}


def test_a_study_of_sweeps_alone_names_their_tables(logged):
    cell = make_cell("none")
    tracker = logged((cell, {"sweep": "delta"}, 0.0))
    assert tuple(load_frame(tracker).columns) == SCORES
    with pytest.raises(UserError, match=r"has no sweeps, got sweep='delta'\.$"):
        load_frame(tracker, "delta")
    for logs, wanted in ((False, "no complete cells yet"), (True, "only complete cells are those of sweeps")):
        if logs:
            log_trial(tracker, "delta", 0, {}, [cell])
        numbers = main_numbers(load_frame(tracker), {})
        assert numbers.empty
        assert wanted in as_markdown(numbers)
        assert wanted in as_latex(numbers)
    assert r"see sweep\_\*.md." in as_markdown(numbers)
    assert "see sweep\\_{*}.md." in as_latex(numbers)
    logged((make_cell("none", "lmf"), {}, 0.0))
    assert not load_frame(tracker).attrs["sweeps"]
    assert "sweep" not in as_markdown(main_numbers(load_frame(tracker), {"mosi": "mosi"}))


def test_an_export_of_a_study_that_holds_only_sweeps_says_what_to_type(logged, tmp_path, capsys):
    cell = make_cell("none")
    tracker = logged((cell, {"sweep": "xi a"}, 0.0))
    given = ["study=s", f"var_dir={tracker.var_dir}", f"out={tmp_path / 'a.csv'}"]
    assert export.main([*given, "sweeps=true"]) == 2
    assert "has no sweeps; leave out sweeps=true" in capsys.readouterr().err
    for sweep, wanted in (
        ("xi a", "holds only trials of xi a: 'sweep=xi a' exports them.\n"),
        (
            "delta",
            "holds only trials of delta, xi a: sweep=delta exports those of one, sweeps=true those of all.\n",
        ),
    ):
        log_trial(tracker, sweep, 0, {}, [cell])
        assert export.main(given) == 0
        assert capsys.readouterr().out.startswith(f"Study 's' {wanted}")
    for advised in ("sweep=xi a", "sweep=delta", "sweeps=true"):
        assert export.main([*given, advised]) == 0
        assert "of 1 cells" in capsys.readouterr().out
    logged((make_cell("none", "lmf"), {}, 0.0))
    assert export.main(given) == 0
    assert "only" not in capsys.readouterr().out


# Of frames


def rows(method, values, settings="{}", **given):
    """One row per metric and seed of the kind "sims"."""
    usual = {"tuned_backbone": True, "settings": settings}
    return score_rows(method, dict.fromkeys(METRICS["sims"], values), **usual | given)


def numbers_of(*parts):
    return main_numbers(pd.DataFrame([row for part in parts for row in part]), {"mine": "sims"})


TUNED = [
    *rows("none", (0.1, 0.3)),
    *rows("none", (0.1, 0.3), backbone="lmf"),
    *rows("powmix", (0.2, 0.4), '{"alpha": 0.5}', tuned=True),
    *rows("powmix", (0.6, 0.8), '{"alpha": 0.7}', tuned=True, backbone="lmf"),
    *rows("powmix", (0.5, 0.5)),
    *rows("powmix", (0.5, 0.5), '{"alpha": 0.5}'),
]


def test_tuned_settings_make_one_row_whatever_they_are():
    numbers = numbers_of(TUNED)
    assert list(dict.fromkeys(numbers["method"])) == ["none", "powmix", "powmix{alpha:0.5}", "powmix{tuned}"]
    tuned = numbers[(numbers["method"] == "powmix{tuned}") & (numbers["metric"] == "mae")]
    assert tuned.set_index("backbone")["mean"].round(9).to_dict() == {"lmf": 0.7, "tfn": 0.3}
    assert (tuned[["n", "seeds"]] == 2).all(axis=None)
    by_ratio = occlusion_numbers(pd.DataFrame(TUNED), {"mine": "sims"})
    assert set(by_ratio["method"]) == set(numbers["method"])
    shuffled = pd.DataFrame(TUNED).sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(main_numbers(shuffled, {"mine": "sims"}), numbers)


OWN = {"{}": "powmix", '{"alpha": 0.5}': "powmix{alpha:0.5}", '{"alpha": 9}': None}


@pytest.mark.parametrize(("settings", "wanted"), OWN.items())
def test_a_search_that_ends_at_settings_with_a_row_of_their_own_leaves_no_hole_there(settings, wanted):
    plain = [*rows("powmix", (0.5, 0.5)), *rows("powmix", (0.5, 0.5), '{"alpha": 0.5}')]
    for tuned_backbone in (False, True):
        more = {"tuned": True, "tuned_backbone": tuned_backbone, "backbone": "lmf"}
        numbers = numbers_of(plain, rows("powmix", (0.2, 0.4), settings, **more))
        assert set(numbers["method"]) == {"powmix", "powmix{alpha:0.5}", "powmix{tuned}"}
        mae = numbers[(numbers["backbone"] == "lmf") & (numbers["metric"] == "mae") & (numbers["n"] > 0)]
        own = set() if tuned_backbone else {wanted}
        assert set(mae["method"]) == {"powmix{tuned}"} | own - {None}
        assert mae["mean"].round(9).unique() == [0.3]


def test_cells_of_earlier_files_are_left_out_and_counted():
    for old, words in ((0, None), (1, "1 cell with"), (2, "2 cells with")):
        earlier = rows("powmix", (0.9,) * old, '{"alpha": 0.9}', tuned=True, outdated=True)
        numbers = numbers_of(TUNED, earlier)
        pd.testing.assert_frame_equal(numbers, numbers_of(TUNED))
        for text in (as_markdown(numbers), as_latex(numbers, "t")):
            assert ("earlier" in text) == (words is not None)
            assert words is None or f"the newest file; left out: {words} settings of earlier files." in text


def test_tables_say_what_tuned_means_where_it_stands():
    chosen, unequal = "settings chosen on the validation split", "were not tuned"
    for frame, wanted in (
        (TUNED, (True, True)),
        ([row for row in TUNED if row["tuned"]], (True, False)),
        ([row for row in TUNED if not row["tuned"]], (False, False)),
    ):
        numbers = numbers_of(frame)
        for text in (as_markdown(numbers), as_latex(numbers, "t")):
            assert (chosen in text, unequal in text) == wanted
            assert ("files under tuned=DIR list the budgets" in text) == wanted[0]
            assert ("(for none: learning rate and dropout); its seeds" in text) == wanted[0]
    latex = as_latex(numbers_of(TUNED))
    assert r"& PowMix\{tuned\} & 2 &" in latex
    assert r"\{tuned\}: settings chosen" in latex
    # A method tuned twice is pointed out.
    assert "‡" not in as_markdown(numbers_of(TUNED))
    twice = numbers_of(TUNED, rows("powmix", (0.9, 0.9), '{"alpha": 0.9}', tuned=True))
    assert "| PowMix{tuned} | 4‡ |" in as_markdown(twice)
