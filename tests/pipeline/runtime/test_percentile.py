"""`percentile`: the nearest rank, by definition and by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraconsole.pipeline.runtime.percentile import half_spread, percentile


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.integers(1, 100))
def test_a_percentile_is_the_smallest_value_that_its_share_does_not_exceed(
    values: list[float], percent: int
) -> None:
    found = percentile(sorted(values), percent / 100)
    assert found in values
    assert sum(v <= found for v in values) * 100 >= percent * len(values)
    assert sum(v < found for v in values) * 100 < percent * len(values)


@pytest.mark.parametrize(
    ("q", "value"), [(0.0, 1.0), (0.01, 1.0), (0.07, 7.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)]
)
def test_percentiles_of_one_to_a_hundred(q: float, value: float) -> None:
    assert percentile([float(n) for n in range(1, 101)], q) == value


def test_nothing_has_no_percentiles() -> None:
    assert percentile([], 0.5) is None


def test_half_the_spread_of_few_values_is_of_all_and_of_many_of_the_middle_half() -> None:
    assert half_spread(()) == 0.0 and half_spread((5.0,)) == 0.0
    assert half_spread((1.0, 2.0, 9.0)) == 4.0
    assert half_spread((*range(100), 1e9)) == 25.0
