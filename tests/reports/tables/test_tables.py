"""The tables against golden text worked out by hand, and the cases that make a table lie when forgotten."""

import io
import itertools
import math

import pandas as pd
import pytest

from harness.metrics import METRICS
from reports.names import method_name
from reports.runs.frame import SCORES
from reports.tables.seed_means import ablation_numbers, main_numbers, occlusion_numbers
from tests.support.scores import STILL, SwingingClips
from tests.support.studies import as_latex, as_markdown, as_table
from tests.support.studies import score_rows as rows

KINDS = {"mine": "sims", "synthetic_mosi": "mosi"}


def frame(*parts):
    return pd.DataFrame([row for part in parts for row in part], columns=list(SCORES))


def of(*parts, numbers_of=main_numbers):
    """The numbers of these parts of a frame."""
    return numbers_of(frame(*parts), KINDS, clips=STILL)


def all_metrics(*values, kind="sims"):
    return dict.fromkeys(METRICS[kind], values)


def table(text):
    """Cells of the first table of a Markdown text, header and rule left out."""
    lines = [line for line in text.split("\n\n")[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


SMALL = frame(
    rows("none", {**all_metrics(0.5, 0.7), "mae": (0.5, 0.4), "corr": (0.25, math.nan), "loss": (1, 1)}),
    rows("ms_mix", {**all_metrics(0.6, 0.8), "mae": (0.5, 0.6), "corr": (0.5, 0.5)}),
    rows("ms_mix", {**all_metrics(0.5, 0.7), "mae": (0.8, 0.8), "corr": ()}, settings='{"delta": 0.4}'),
    rows("none", all_metrics(0.9), split="valid"),
    rows("none", all_metrics(0.9), occlusion_ratio=0.5),
    rows("none", all_metrics(0.9), occlusion_protocol="train", occlusion_ratio=0.1),
)

GOLDEN_CSV = """\
dataset,backbone,method,kind,metric,mean,std,n,undefined,seeds,verdict,published
mine,tfn,none,sims,acc2,0.6,0.14142135623730948,2,0,2,,False
mine,tfn,none,sims,acc3,0.6,0.14142135623730948,2,0,2,,False
mine,tfn,none,sims,acc5,0.6,0.14142135623730948,2,0,2,,False
mine,tfn,none,sims,f1,0.6,0.14142135623730948,2,0,2,,False
mine,tfn,none,sims,mae,0.45,0.07071067811865474,2,0,2,,False
mine,tfn,none,sims,corr,0.25,,1,1,2,,False
"""

GOLDEN_MARKDOWN = """\
### Main results

| Dataset | Backbone | Method | n | Acc-2 ↑ | Acc-3 ↑ | Acc-5 ↑ | F1 ↑ | MAE ↓ | Corr ↑ |
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| mine | TFN | none | 2 | A | A | A | A | <u>0.450 ± 0.071</u> | 0.250 ± - †1/2 |
| mine | TFN | MS-Mix | 2 | B | B | B | B | <u>0.550 ± 0.071</u> | 0.500 ± 0.000 |
| mine | TFN | MS-Mix{delta:0.4} | 2 | A | A | A | A | 0.800 ± 0.000 | - |

- Test split; mean ± standard deviation over n seeds; accuracies and F1 in percent.
- ↑ higher is better, ↓ lower is better.
- Underlined: best and second-best mean of a group, among rows with all seeds; the difference may be chance. \
Bold: the best mean, where it is also better than none beyond noise.
- With one seed no spread can be given: ± -.
- †k/n: undefined for k of n seeds, left out of the mean and not ranked.
- - alone: no complete cell.
- There are no marks against none, because they need at least three seeds.
""".replace("A |", "<u>60.00 ± 14.14</u> |").replace("B |", "<u>70.00 ± 14.14</u> |")


def test_the_files_are_those_worked_out_by_hand():
    for seed in range(3):
        numbers = main_numbers(SMALL.sample(frac=1, random_state=seed), KINDS)
        lines = as_table(numbers).csv.splitlines(keepends=True)
        assert "".join(lines[:7]) == GOLDEN_CSV
        assert len(lines) == 1 + 3 * len(METRICS["sims"])
        assert as_markdown(numbers, "Main results").replace("\u2013", "-") == GOLDEN_MARKDOWN
        latex = as_latex(numbers, "Main results")
        assert latex.startswith("% needs \\usepackage{booktabs}\n")
        none, own = r"\underline{60.00 $\pm$ 14.14}", r"0.800 $\pm$ 0.000"
        best = rf"{none} & \underline{{0.450 $\pm$ 0.071}} & 0.250 $\pm$ -- \dag{{}}1/2 \\"
        assert f"mine & TFN & none & 2 & {none} & {none} & {none} & {best}\n" in latex
        assert f"MS-Mix\\{{delta:0.4\\}} & 2 & {none} & {none} & {none} & {none} & {own} & -- \\\\\n" in latex


@pytest.mark.parametrize(
    ("order", "backbones", "methods"),
    [
        ([], ["lmf", "tfn"], ["none", "c_mixup", "mixup", "mixup{alpha:2}", "ms_mix"]),
        (["tfn", "none", "ms_mix", "mixup"], ["tfn", "lmf"],
         ["none", "ms_mix", "mixup", "mixup{alpha:2}", "c_mixup"]),
    ],
)  # fmt: skip
def test_order_is_none_first_then_alphabetical_unless_given(order, backbones, methods):
    pairs = itertools.product(("mixup", "none", "c_mixup", "ms_mix"), ("tfn", "lmf"))
    parts = [rows(m, all_metrics(0.5), backbone=b) for m, b in pairs]
    numbers = main_numbers(
        frame(*parts, rows("mixup", all_metrics(0.5), settings='{"alpha": 2}')), KINDS, order
    )
    assert list(dict.fromkeys(numbers["backbone"])) == backbones
    assert list(dict.fromkeys(numbers["method"])) == methods


def test_a_hole_in_the_matrix_shows():
    parts = [rows("none", all_metrics(0.5, 0.6), backbone=backbone) for backbone in ("tfn", "lmf")]
    numbers = of(*parts, rows("mixup", all_metrics(0.7, 0.8)))
    hole = numbers[(numbers["backbone"] == "lmf") & (numbers["method"] == "mixup")]
    assert len(hole) == len(METRICS["sims"])
    assert (hole[["n", "undefined", "seeds"]] == 0).all(axis=None)
    text = as_markdown(numbers)
    assert ["mine", "LMF", "Mixup", "0", *["\u2013"] * 6] in table(text)
    assert "no complete cell" in text
    assert "no spread" not in text
    alone = next(row for row in table(text) if row[1:3] == ["LMF", "none"])
    assert not any("**" in cell for cell in alone), "a method without a rival is not the best"


def test_undefined_values_are_counted_and_never_win():
    shown = {
        "none": ((0.9, math.nan), "0.900 ± \u2013 †1/2"),
        "mixup": ((math.nan, math.nan), "\u2013 †2/2"),
        "duplicate": ((0.2, 0.2), "<u>0.200 ± 0.000</u>"),
        "powmix": ((0.1, 0.1), "<u>0.100 ± 0.000</u>"),
    }
    parts = [rows(m, {**all_metrics(0.5, 0.6), "corr": corr}) for m, (corr, _) in shown.items()]
    text = as_markdown(of(*parts))
    assert {row[2]: row[-1] for row in table(text)} == {
        method_name(m): wanted for m, (_, wanted) in shown.items()
    }
    assert "undefined for k of n" in text


def test_marks_say_where_three_seeds_are_better_or_worse_than_none():
    values = {"none": (3, 5, 4), "mixup": (4, 6.2, 5.1), "powmix": (2, 3.8, 2.9), "x": (4, 4, 6)}
    parts = [rows(method, all_metrics(*three)) for method, three in values.items()]
    found = table(as_markdown(of(*parts)))
    # Student's t of two degrees of freedom: differences of mixup are 1.1, of powmix -1.1 ± 4.3 * 0.1 / √3.
    marks = {row[2]: "".join(sign for sign in row[4] + row[8] if sign in "⁺⁻⁼") for row in found}
    assert marks == {"none": "", "Mixup": "⁺⁻", "PowMix": "⁻⁺", "x": ""}
    bold = {row[2]: [k for k, cell in enumerate(row) if "**" in cell] for row in found}
    assert bold == {"none": [], "Mixup": [4, 5, 6, 7, 9], "PowMix": [8], "x": []}, "the best that are better"
    unknown = as_markdown(main_numbers(frame(*parts), KINDS))
    assert not any(sign in unknown for sign in (" ⁺ |", " ⁻ |", "**")), "without predictions there are none"
    wide = main_numbers(frame(*parts), KINDS, clips=STILL, margins={"acc2": 2.0})
    assert {row[2]: row[4][-1] for row in table(as_markdown(wide))}["PowMix"] == "⁼"


def test_what_reads_equal_is_marked_equal_and_two_results_for_one_seed_are_pointed_out():
    values = {"none": 0.5, "mixup": 0.500001, "ms_mix": 0.4}
    parts = [rows(method, all_metrics(value, value)) for method, value in values.items()]
    text = as_markdown(of(*parts))
    assert "‡" not in text
    shown = ["<u>50.00 ± 0.00</u>", "<u>50.00 ± 0.00</u>", "<u>40.00 ± 0.00</u>"]
    assert [row[4] for row in table(text)] == shown
    repeated = as_markdown(of(*parts, rows("none", all_metrics(0.7), cell_id="other")))
    assert table(repeated)[0][3] == "3‡"
    assert "‡ some seeds count repeatedly" in repeated


@pytest.mark.parametrize("numbers_of", [main_numbers, occlusion_numbers])
def test_without_results_the_table_says_so(numbers_of):
    for tidy in (frame(), frame(rows("none", all_metrics(0.5), split="valid"))):
        numbers = numbers_of(tidy, KINDS)
        assert as_table(numbers).csv.count("\n") == 1
        assert as_markdown(numbers, "Main") == "### Main\n\n- There are no complete cells yet.\n"
        assert "no complete cells" in as_latex(numbers, "Main")


def test_names_are_escaped():
    name = "a_b|c&<x>\n50%$#^~\\[*"
    numbers = of(rows("none", all_metrics(0.5), backbone=name))
    escaped = r"a\_b\|c&amp;&lt;x&gt; 50%\$\#^\~\\\[\*"
    assert as_markdown(numbers, name).startswith(f"### {escaped}\n")
    assert table(as_markdown(numbers))[0][1] == escaped
    escaped = r"a\_b\textbar{}c\&\textless{}x\textgreater{} 50\%\$\#\textasciicircum{}"
    escaped += r"\textasciitilde{}\textbackslash{}{[}{*}"
    assert f"mine & {escaped} & none & 1 &" in as_latex(numbers, name)
    assert rf"\caption{{{escaped[0].upper()}{escaped[1:]}." in as_latex(numbers, name)
    assert pd.read_csv(io.StringIO(as_table(numbers).csv))["backbone"].unique() == [name]


SYNTHETIC = "synthetic stand-in data"


@pytest.mark.parametrize(
    ("datasets", "mark"),
    [
        (["mine"], ""),
        (["synthetic_mosi"], f" ({SYNTHETIC})"),
        (["synthetic_mosi", "mine"], f" (includes {SYNTHETIC})"),
    ],
)
def test_each_data_set_has_the_columns_of_its_kind_and_synthetic_ones_a_mark_in_titles(datasets, mark):
    parts = [rows("none", all_metrics(0.5, kind=KINDS[name]), dataset=name) for name in datasets]
    numbers = of(*parts)
    for dataset, part in numbers.groupby("dataset"):
        assert tuple(part["metric"]) == METRICS[KINDS[dataset]]
    markdown = as_markdown(numbers, "Main").splitlines()
    assert markdown[0] == f"### Main{mark}"
    headers = [line for line in markdown if line.startswith("| Dataset")]
    captions = as_latex(numbers, "Main").split("\\begin{table*}")[1:]
    assert len(captions) == len(datasets)
    for dataset, header, caption in zip(sorted(datasets), headers, captions, strict=True):
        assert ("Acc-7" in header) == (dataset == "synthetic_mosi")
        assert (SYNTHETIC in caption) == (dataset == "synthetic_mosi")


def test_a_wrong_frame_and_a_data_set_without_a_kind_are_refused():
    for kinds in ({}, {"other": "mossi"}):
        with pytest.raises(ValueError, match=r"'other'.*mosi"):
            main_numbers(frame(rows("none", all_metrics(0.5), dataset="other")), kinds)
    with pytest.raises(ValueError, match="lacks seed, value; it has"):
        main_numbers(SMALL.drop(columns=["seed", "value"]), KINDS)
    for column in ("value", "occlusion_ratio"):
        with pytest.raises(ValueError, match=f"'{column}'.*numbers, got"):
            main_numbers(SMALL.assign(**{column: "0.5"}), KINDS)


def test_occlusion_has_a_group_per_protocol_and_ratio():
    levels = itertools.product((("none", 0.5), ("mixup", 0.4)), (0.0, 0.3))
    tidy = frame(
        *(rows(m, all_metrics(v - r, v + 0.1 - r), occlusion_ratio=r) for (m, v), r in levels),
        rows("none", all_metrics(0.45), occlusion_protocol="train", occlusion_ratio=0.3),
    )
    numbers = occlusion_numbers(tidy, KINDS)
    conditions = ["occlusion_protocol", "occlusion_ratio"]
    assert list(numbers.columns[:5]) == ["dataset", "backbone", *conditions, "method"]
    assert [row[2:7] for row in table(as_markdown(numbers))] == [
        ["test", "0", "none", "2", "<u>55.00 ± 7.07</u>"],
        ["test", "0", "Mixup", "2", "<u>45.00 ± 7.07</u>"],
        ["test", "0.3", "none", "2", "<u>25.00 ± 7.07</u>"],
        ["test", "0.3", "Mixup", "2", "<u>15.00 ± 7.07</u>"],
        ["train", "0.3", "none", "1", "45.00 ± \u2013"],
        ["train", "0.3", "Mixup", "0", "\u2013"],
    ]
    clean = numbers[(numbers["occlusion_protocol"] == "test") & (numbers["occlusion_ratio"] == 0)]
    same = clean.drop(columns=conditions).reset_index(drop=True)
    pd.testing.assert_frame_equal(same, main_numbers(tidy, KINDS))


@pytest.mark.parametrize(("backbone", "said"), [("misa", True), ("misa[bert]", False), ("tfn", False)])
def test_the_text_of_misas_published_results_is_told_beside_ours_of_features(backbone, said):
    tidy = frame(rows("none", all_metrics(0.5, kind="mosi"), dataset="mosi", backbone=backbone))
    text = as_markdown(main_numbers(tidy, {"mosi": "mosi"}))
    assert "none (published)" in text
    assert ("fine-tuned BERT, but ours have fixed text features" in text) == said


@pytest.mark.parametrize("size", [0.0, 0.5])
def test_rows_of_every_table_are_marked_only_if_they_hold_on_other_clips(size):
    """Seeds alone call all of them better; where videos swing the scores of all but none, nothing is."""
    low, high = {"mae": (0.5, 0.51, 0.52)}, {"mae": (0.8, 0.82, 0.81)}
    parts = [rows("none", high, dataset="synthetic_mosi", run_id="r-none")]
    variants = [("ms_mix", "{}", False), ("ms_mix", '{"sal": false}', False), ("ms_mix", "{}", True)]
    for method, settings, tuned in variants:
        for ratio in (0.0, 0.5):
            given = {
                "settings": settings,
                "tuned": tuned,
                "occlusion_ratio": ratio,
                "dataset": "synthetic_mosi",
            }
            parts.append(rows(method, low, run_id="r-other", **given))
    parts.append(rows("none", high, dataset="synthetic_mosi", run_id="r-none", occlusion_ratio=0.5))
    clips = SwingingClips(size, lambda name: name == "r-other")
    seen = set()
    for numbers_of in (main_numbers, ablation_numbers, occlusion_numbers):
        numbers = numbers_of(frame(*parts), KINDS, clips=clips)
        found = numbers[(numbers["metric"] == "mae") & (numbers["method"] != "none") & (numbers["n"] > 0)]
        assert len(found)
        assert set(found["verdict"]) == {"undecided" if size else "better"}
        seen |= set(found["method"])
    assert seen == {"ms_mix", "ms_mix[sass,sig]", "ms_mix{tuned}"}
