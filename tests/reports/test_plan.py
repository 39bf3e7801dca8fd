"""The planner: seeds that a gain needs, from a pilot study."""

import re

import pytest

from harness.config.compose import load_report
from harness.errors import UserError
from reports import plan
from reports.stats.noise import Noise
from tests.support.studies import make_study


def lines(study, *more):
    return list(plan.plan_lines(study, load_report(["study=quick", "gain=0.02", *more])))


def test_seeds_are_the_fewest_that_find_the_gain():
    noise = Noise(seeds=0.0004, seeds_freedom=8, videos=0.00001, videos_freedom=30)
    seeds = plan.seeds_for(noise, 5, 0.03)
    assert seeds > 5
    assert noise.with_seeds(5, seeds).power(0.03) >= 0.8 > noise.with_seeds(5, seeds - 1).power(0.03)
    assert plan.seeds_for(noise, 5, 10.0) == 3, "fewer give no verdict"
    assert plan.seeds_for(Noise(0.0004, 8, 0.01, 30), 5, 0.03) is None


def test_a_pilot_tells_seeds_probability_and_time():
    study = make_study(
        3, ("synthetic_mosi",), ("tfn", "misa"), ("none", "mixup"), (0.0,), (), False, False, False
    )
    first, own, time = lines(study)
    assert first == "A gain of 0.02 in test mae over none, with 80% probability:"
    found = re.fullmatch(
        r"  synthetic_mosi, mixup: found with probability (0\.\d\d) by 3 seeds; (\d+) seeds suffice\.", own
    )
    assert int(found[2]) > 3
    assert float(found[1]) < 0.8
    cells = 4 * int(found[2])
    assert f"{found[2]} seeds for each of the 4 combinations of this study are {cells} cells" in time
    assert f"{20.0 * cells / 3600:.2g} hours" in time
    [_, easy, _] = lines(study, "gain=3")
    assert "probability 1.00 by 3 seeds; 3 seeds suffice" in easy


def test_what_tells_no_variances_and_wrong_gains_are_refused(capsys):
    study = make_study(1, ("synthetic_mosi",), ("tfn",), ("none", "mixup"), (0.0,), (), False, False, False)
    with pytest.raises(UserError, match="tells no variances: train none and another method"):
        lines(study)
    with pytest.raises(UserError, match="Did you mean 'mae'"):
        lines(study, "metric=maee")
    for gain in ("0", "-1", "nan", "inf", "null"):
        assert plan.main(["study=s", f"gain={gain}"]) == 2
        assert "gain must be a positive number, as in gain=0.02" in capsys.readouterr().err
    assert plan.main(["--help"]) == 0
