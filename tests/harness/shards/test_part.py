"""Shards are a partition of the plan, and are named on the command line or by a SLURM array."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UserError
from harness.shards.part import Shard, parse_shard


def array(task, first=1, last=4, step=1, count=None):
    count = (last - first) // step + 1 if count is None else count
    values = {"ID": task, "MIN": first, "MAX": last, "STEP": step, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@given(st.lists(st.integers(), unique=True), st.integers(1, 9))
def test_each_cell_is_in_one_shard(cells, count):
    parts = [Shard(number, count).of(cells) for number in range(1, count + 1)]
    assert sorted(cell for part in parts for cell in part) == sorted(cells)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("text", "shard"), [("1/1", (1, 1)), ("2/8", (2, 8)), ("8/8", (8, 8))])
def test_a_part_by_number(text, shard):
    assert parse_shard(text, {}) == Shard(*shard)
    assert str(Shard(*shard)) == text


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "-1/4", "1/4/2", "a/b", "", "1.0/4", "slurm/4"])
def test_what_is_no_part_gets_an_example(text):
    with pytest.raises(UserError, match=r"as in shard=1/4, or shard=slurm\.$"):
        parse_shard(text, array(1))


@pytest.mark.parametrize(
    ("variables", "shard"),
    [
        (array(3), (3, 4)),
        (array(0, first=0, last=3), (1, 4)),
        (array(5, first=1, last=9, step=2), (3, 5)),
        (array(7, first=7, last=7), (1, 1)),
    ],
)
def test_the_task_of_an_array(variables, shard):
    assert parse_shard("slurm", variables) == Shard(*shard)


@pytest.mark.parametrize(
    "variables", [{}, array("x"), array(3, first=1, last=7, count=3), array(4, first=1, last=9, step=2)]
)
def test_what_is_no_array_of_equal_steps_says_what_to_type(variables):
    with pytest.raises(UserError, match=r"sbatch --array=1-N, or give shard=1/4\.$"):
        parse_shard("slurm", variables)
