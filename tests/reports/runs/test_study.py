"""A study as reports read it: its cells, data sets, settings, and which configuration counts."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from backbones import BACKBONES
from backbones.base import resolve_settings
from harness.matrix import RESULTS_VERSION
from harness.study.description import CODE_FILE, DATASETS_FILE, MATRIX_FILE, STUDY_FILE
from reports import commands
from reports.figures import latents
from reports.figures import ranks as rank_figure
from reports.page import summary
from reports.page.report import all_tables
from reports.runs.notices import PREFIX, unpublished_settings
from reports.stats import comparison
from reports.stats.ranking import ranks
from reports.tables.cost import cost_numbers
from reports.tables.datasets import dataset_numbers, dataset_table
from tests.support.drivers.driving import exported, run
from tests.support.stored import CELLS, FEW, load, tracker_of
from tests.support.studies import make_study


def test_every_cell_asked_for_has_a_state_and_a_reason(stored):
    study = load(stored)
    states = study.outcomes.set_index("cell")[["state", "reason"]].to_dict("index")
    assert study.counts() == {"done": 4, "failed": 1, "diverged": 1, "missing": 0}
    assert states["synthetic_mosi/lmf/mixup/seed1112"]["state"] == "diverged"
    assert "not finite at epoch 2, step 1" in states["synthetic_mosi/lmf/mixup/seed1112"]["reason"]
    assert states["synthetic_mosi/lmf/ms_mix/seed1112"]["state"] == "failed"
    assert "no room <here>" in states["synthetic_mosi/lmf/ms_mix/seed1112"]["reason"]
    assert study.outcomes["requested"].all()
    complete = set(tracker_of(stored).complete())
    for frame in (study.frame, *exported(stored)):
        assert set(frame["cell_id"]) == complete, "neither a mean nor an export has a part of the others"


def test_cells_of_the_last_request_without_a_run_are_missing(var, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("harness.interrupts.signal.signal", lambda *_: None)
        patch.setattr("harness.study.driver.Driver.run", stop)
        assert run(var, "methods=[none,powmix]", "backbones=[lmf]", "seeds=[1111,1112,1113]") == 130
    study = load(var)
    assert study.counts() == {"done": 4, "failed": 1, "diverged": 1, "missing": 4}
    missing = study.outcomes[study.outcomes["state"] == "missing"]
    wanted = {("powmix", 1111), ("powmix", 1112), ("powmix", 1113), ("none", 1113)}
    assert set(zip(missing["method"], missing["seed"], strict=True)) == wanted
    assert list(study.outcomes["requested"]).count(True) == 6


def test_what_became_of_a_cell_later_counts(var):
    tracker = tracker_of(var)
    [failed] = [r for r in tracker.failures() if r.tags["outcome"] == "failed"]
    tracker.client.set_tag(failed.run_id, "sweep", "delta")
    counts = load(var).counts()
    assert (counts["failed"], counts["missing"]) == (0, 1), "a sweep's failure is not of the matrix"
    assert run(var, *FEW, "retry=diverged") == 0
    assert load(var).counts() == {"done": CELLS, "failed": 0, "diverged": 0, "missing": 0}


def test_data_sets_are_described_and_those_of_earlier_requests_stay(var):
    sims = ("datasets=[synthetic_sims]", "dataset.synthetic_sims.clips=40")
    assert run(var, *sims, *FEW[:2], "seeds=[1]") == 0
    tracker = tracker_of(var)
    described = {entry["name"]: entry for entry in json.loads(tracker.study_file(DATASETS_FILE))}
    assert set(described) == {"synthetic_mosi", "synthetic_sims"}
    assert all(entry["synthetic"] for entry in described.values())
    entry = described["synthetic_mosi"]
    assert sum(split["clips"] for split in entry["splits"].values()) == 60
    assert entry["like"] == "mosi"
    for split in entry["splits"].values():
        assert split["negative"] + split["neutral"] + split["positive"] == pytest.approx(1)
        assert 1 < split["videos"] < split["clips"]
        assert all(0 < x["median"] <= x["p95"] <= entry["steps"][m] for m, x in split["lengths"].items())
    study = load(var)
    errors, pairs = study.clip_pairs["synthetic_mosi"]
    assert len(pairs), "each run has predictions"
    lengths = study.text_lengths("synthetic_mosi", errors.ids)
    assert len(lengths) == entry["splits"]["test"]["clips"]
    assert np.median(lengths) == entry["splits"]["test"]["lengths"]["text"]["median"]
    assert study.text_lengths("synthetic_mosi", ["unknown"]) is None
    assert study.text_lengths("mosei", errors.ids) is None
    numbers = dataset_numbers(study)
    assert list(zip(numbers["dataset"], numbers["split"], strict=True)) == [
        (name, split) for name in sorted(described) for split in ("train", "valid", "test")
    ]
    row = numbers.iloc[0]
    assert (row["clips"], row["text_width"]) == (entry["splits"]["train"]["clips"], entry["widths"]["text"])


def test_the_same_announcement_is_stored_once(var, monkeypatch):
    tracker = tracker_of(var)
    files = {name: tracker.study_file(name) for name in (DATASETS_FILE, MATRIX_FILE, CODE_FILE, STUDY_FILE)}
    stored = []
    monkeypatch.setattr(LocalArtifactRepository, "log_artifacts", lambda *given: stored.append(given))
    tracker.announce(files, tracker.description())
    assert stored == []
    tracker.announce({**files, MATRIX_FILE: "{}"}, tracker.description())
    assert len(stored) == 1


def test_samples_are_those_of_the_first_seeds(stored):
    study = load(stored)
    assert set(study.sampled["seed"]) == {1111}
    assert set(study.sampled["method"]) == {"none", "mixup", "ms_mix"}
    for run_id, method in zip(study.sampled["run_id"], study.sampled["method"], strict=True):
        assert ("mixed_text" in study.samples(run_id)) == (method != "none")
    assert not latents.FIGURE.data(study).empty


def test_settings_that_differ_from_the_published_ones_are_told(stored, var):
    assert load(stored).settings == ["LMF on synthetic MOSI: max_epochs 2 (200)."]
    assert run(var, "methods=[none]", "backbones=[tfn]", "seeds=[1]") == 0
    [tfn] = [text for text in load(var).settings if text.startswith("TFN")]
    assert "text_out 4 (" in tfn
    assert "audio_hidden 4 (" in tfn


def changes_of(backbone, dataset, like, **text):
    """The sentences about a run with the settings of a kind of data set."""
    kind = BACKBONES[backbone.partition("[")[0]]
    values = {f"{PREFIX}{k}": str(v) for k, v in vars(resolve_settings(kind, kind.Settings(), like)).items()}
    values |= {f"text.{name}": str(value) for name, value in text.items()}
    run = SimpleNamespace(run_id="1", tags={"backbone": backbone, "dataset": dataset})
    tracker = SimpleNamespace(parameters=lambda run_id: values)
    return unpublished_settings(tracker, [run], [{"name": dataset, "like": like}])


def test_settings_of_sims_are_told_where_they_are_not_those_of_sims_v2():
    assert changes_of("lmf", "simsv2", "simsv2") == changes_of("lmf", "mine", "sims") == []
    assert changes_of("lmf", "simsv2", "sims") == [
        "LMF on CH-SIMS v2: audio_dropout 0.2 (0.3), audio_hidden 16 (32), batch_size 64 (32), "
        "vision_dropout 0.2 (0.3), weight_decay 0.005 (0.0001)."
    ]


def test_rates_of_a_fine_tuned_encoder_are_told_where_they_are_not_the_published_ones():
    earlier = {"encoder": "bert", "finetune": True, "learning_rate": 2e-5}
    assert changes_of("almt[bert]", "mosi", "mosi", **earlier) == [
        "ALMT[bert] on CMU-MOSI: text.learning_rate 2e-05 (0.0001), text.weight_decay 0.0 (0.0001)."
    ]
    assert changes_of("almt[bert]", "mosi", "mosi", **earlier | {"finetune": False}) == []
    assert changes_of("almt", "mosi", "mosi", encoder="features", finetune=True, learning_rate=2e-5) == []
    published = earlier | {"learning_rate": 1e-4, "weight_decay": 0.0}
    assert changes_of("misa[bert]", "mosi", "mosi", **published) == []


def test_what_results_were_made_with(stored):
    study = load(stored)
    assert study.facts["Results version"] == str(RESULTS_VERSION)
    assert study.facts["Device"] == "cpu"
    assert {"torch", "mlflow", "python", "Code"} <= set(study.facts)
    assert study.stand_in(["synthetic_mosi"]) == " (synthetic stand-in data)"
    assert study.stand_in(["synthetic_mosi", "mine"]) == " (includes synthetic stand-in data)"
    assert study.stand_in(["mine"]) == ""
    assert study.stand_in([]) == " (synthetic stand-in data)", "of a place where nothing is shown yet"


def test_titles_name_absent_modalities():
    study = make_study(1, ("mosi", "sims"), ("tfn",), ("none",), sweeps=False, samples=False)
    assert study.stand_in(["mosi"]) == ""
    lacking = [
        {**e, **({"absent": ["text", "vision"]} if e["name"] == "mosi" else {})} for e in study.datasets
    ]
    study = dataclasses.replace(study, datasets=lacking)
    assert study.stand_in(["mosi"]) == " (CMU-MOSI without text and vision)"
    assert study.stand_in(["sims", "mosi"]) == " (CMU-MOSI without text and vision)"
    assert study.stand_in(["sims"]) == ""
    titles = [table.title for table in all_tables(study, summary.compare_methods(study))]
    told = [title.split(":")[0].split(" (")[0] for title in titles if "MOSI without text and vision" in title]
    assert {"Each method against none", "Table 1", "Table 2", "Table 5"} <= set(told)


def test_what_is_stored_of_data_sets_tells_stand_ins(var):
    tracker = tracker_of(var)
    [entry] = json.loads(tracker.study_file(DATASETS_FILE))
    tracker.announce({DATASETS_FILE: json.dumps([{**entry, "synthetic": False}])}, None)
    assert load(var).synthetic == frozenset(), "a file in the place of a synthetic data set"
    tracker.announce({DATASETS_FILE: json.dumps([{"name": "synthetic_mosi", "synthetic": True}])}, None)
    assert load(var).datasets == [], "of an older version"


def test_time_over_none_equals_a_loop():
    frame = make_study(seeds=4, datasets=("synthetic_mosi",), ablation=False).frame
    times = frame[frame["metric"] == "epoch_s"].set_index(["backbone", "method", "seed"])["value"]
    numbers = cost_numbers(frame).set_index(["backbone", "method"])
    for (backbone, method), row in numbers.iterrows():
        ratios = [times[backbone, method, 1111 + k] / times[backbone, "none", 1111 + k] for k in range(4)]
        assert row["overhead"] == pytest.approx(np.mean(ratios))
        assert (row["n"], row["backbone_parameters"]) == (4, 9000)
        assert row["method_parameters"] == (500 if method == "ms_mix" else 0)
        assert row["overhead_low"] <= row["overhead"] <= row["overhead_high"]
    elsewhere = frame.assign(environment=frame["environment"].where(frame["method"] != "none", "GPU"))
    overheads = cost_numbers(elsewhere).set_index("method")["overhead"]
    assert overheads.drop("none").isna().all(), "time of another machine is not compared"
    assert (overheads["none"] == 1).all()


def test_frames_are_told_apart_by_what_they_ran_on(var):
    tracker = tracker_of(var)
    first = next(iter(tracker.complete().values()))
    tracker.client.set_tag(first.run_id, "device", "another GPU")
    runs = load(var).frame.groupby("environment")["run_id"].nunique()
    assert sorted(runs) == [1, 3]
    assert any(name.startswith("another GPU, torch ") for name in runs.index)


def test_cells_with_other_settings_do_not_enter_a_mean(var):
    """A trial of another length in the same study: the last request's cells count, whatever ran before."""
    again = ("methods=[none]", "backbones=[lmf]", "seeds=[1111,1112]", "train.max_epochs=1")
    assert run(var, *again) == 0
    study = load(var)
    rows = study.frame[study.frame["method"] == "none"]
    assert rows["cell_id"].nunique() == 4
    assert rows[~rows["superseded"]]["cell_id"].nunique() == 2
    asked = {row[0] for row in json.loads(tracker_of(var).study_file(MATRIX_FILE))["cells"]}
    assert set(rows[~rows["superseded"]]["cell_id"]) == asked
    table = next(t for t in all_tables(study, summary.compare_methods(study)) if t.name.startswith("table2"))
    [row] = [r for group in table.parts[0].groups for r in group if r[2].text == "none"]
    assert row[3].text == "2"
    assert any("2 cells with other backbone" in note for note in table.notes)
    assert study.warnings[0].startswith("2 cells are left out: the latest request")
    assert study.warnings[1].startswith("LMF on synthetic MOSI: ")
    # The first request again: its own cells count, and nothing is trained.
    assert run(var, "methods=[none]", "backbones=[lmf]", "seeds=[1111,1112]") == 0
    kept = load(var).frame.query("method == 'none' and not superseded")["cell_id"]
    assert set(kept).isdisjoint(asked)
    # Of cells that differ in their ratios alone those of the last request count, too.
    assert run(var, "methods=[none]", "backbones=[lmf]", "seeds=[1111,1112]", "occlusion.ratios=[0]") == 0
    rows = load(var).frame.query("method == 'none' and not superseded")
    assert rows["cell_id"].nunique() == 2
    assert set(rows["occlusion_ratio"]) == {0.0}


def test_a_command_that_fills_a_hole_repeats_the_last_request():
    study = make_study(1, ("synthetic_mosi",), ("tfn",), ("none",), sweeps=False, samples=False)
    assert commands.sweep(study, "delta") == "make sweep PARAM=delta"
    named = dataclasses.replace(study, name="my study", request=("profile=quick", "study=my study"))
    assert commands.ablation(named) == "make benchmark ARGS=matrix=ablation STUDY='my study'"
    own = ("datasets=[mine]", "dataset.mine.path=a b.pkl", "methods=[none,mixup]", "seeds=[1]", "study=mine")
    mine = dataclasses.replace(study, name="mine", request=own)
    same = "study=mine 'datasets=[mine]' 'dataset.mine.path=a b.pkl'"
    ablation = f"python -m harness.benchmark matrix=ablation {same} 'seeds=[1]'"
    assert commands.ablation(mine) == ablation
    assert commands.sweep(mine, "delta") == f"python -m sweeps.run param=delta {same}"
    assert commands.occluded(mine).startswith(
        "python -m harness.benchmark 'occlusion.ratios=[0,0.5]' study=mine "
    )


def test_every_empty_table_names_the_command_of_its_own_study():
    study = make_study(0, (), sweeps=False)
    asked = dataclasses.replace(study, name="mine", request=("datasets=[mine]", "study=mine"))
    tables = all_tables(asked, summary.compare_methods(asked))
    assert all(len(table) == 0 for table in tables)
    assert all(table.fill.startswith("python -m harness.benchmark ") for table in tables)
    assert all("datasets=[mine]" in table.fill for table in tables)


def test_tuned_methods_are_paired_with_the_tuned_baseline():
    def differences(*parts):
        return comparison.paired(pd.concat(parts), "mae").groupby("method")["difference"].mean()

    frame = make_study(3, ("synthetic_mosi",), ("tfn",), ("none", "mixup"), (0.0,), (), False, False).frame
    scores = frame[frame["split"] == "test"].assign(occlusion_protocol="test")
    tuned = scores.assign(method=scores["method"] + "{tuned}", value=scores["value"] + 1.0)
    gain = differences(scores)["mixup"]
    both = {"mixup": gain, "mixup{tuned}": gain, "none{tuned}": 1.0}
    assert differences(scores, tuned).drop("none", errors="ignore").to_dict() == pytest.approx(both)
    assert differences(tuned).to_dict() == pytest.approx({"mixup{tuned}": gain})
    mixed = differences(scores, tuned[tuned["method"] == "mixup{tuned}"])
    assert mixed["mixup{tuned}"] == pytest.approx(gain + 1)


def test_two_names_of_one_file_are_one_set_of_data():
    study = make_study(3, ("mine", "ours"), ("tfn", "lmf"), ("none", "mixup"), sweeps=False, samples=False)
    entries = [{**entry, "fingerprint": "f", "notes": ["vision is all zeros."]} for entry in study.datasets]
    study = dataclasses.replace(study, datasets=entries)
    assert study.twins == {"ours": "mine"}
    assert set(study.distinct_scores()["dataset"]) == {"mine"}
    assert ranks(study.distinct_scores(), "mae").blocks == 2
    notes = dataset_table(study).notes
    assert "mine: vision is all zeros." in notes
    assert "ours and mine are the same data: their results are no independent evidence." in notes
    assert set(rank_figure.data(study)["dataset"]) == {"mine"}
