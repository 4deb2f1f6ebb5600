"""Scores where draws, tails and units are unkind."""

import math

import pytest
import torch

from bayesreg.compare import paired_difference

HEAVY = {
    "one row of 40,000 nats": (torch.cat([torch.full((69,), 0.05), torch.tensor([-40_658.0])]), True),
    "one row against all others": (torch.cat([torch.full((199,), -0.1), torch.tensor([900.0])]), True),
    "Cauchy": (torch.distributions.Cauchy(0.0, 1.0).icdf((torch.arange(400) + 0.5) / 400), True),
    "normal": (torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(400) + 0.5) / 400), False),
    "a wider predictive": (1.0 - torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(400) + 0.5) / 400).square(), False),
    "all alike": (torch.full((50,), -0.1), False),
    "no difference": (torch.zeros(50), False),
    "three rows": (torch.tensor([0.0, 0.0, -100.0]), False),
    "one row": (torch.tensor([-100.0]), False),
}


@pytest.mark.parametrize(("rows", "heavy"), HEAVY.values(), ids=HEAVY)
def test_a_difference_that_a_few_rows_make_is_heavy_tailed(rows, heavy):
    found = paired_difference(rows, torch.zeros(len(rows)))
    assert found.heavy_tailed == heavy
    assert found.median == pytest.approx(float(rows.double().quantile(0.5)), abs=1e-12)
    assert (found.num_better, found.num_worse) == (int((rows > 0).sum()), int((rows < 0).sum()))
    again = paired_difference(1e150 * rows.double(), torch.zeros(len(rows)))
    assert again.heavy_tailed == heavy


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_normal_differences_are_never_heavy_tailed_and_lognormal_ones_of_sd_3_are(seed):
    generator = torch.Generator().manual_seed(seed)
    for n in (10, 50, 200):
        rows = torch.randn(300, n, generator=generator)
        zero = torch.zeros(n)
        assert sum(paired_difference(r, zero).heavy_tailed for r in rows) <= 1
    rows = torch.randn(100, 200, generator=generator).mul(3).exp()
    assert sum(paired_difference(-r, torch.zeros(200)).heavy_tailed for r in rows) > 80


def test_the_sign_test_is_the_binomial_one():
    rows = torch.cat([torch.full((15,), 1.0), torch.full((5,), -1e6), torch.zeros(4)])
    found = paired_difference(rows, torch.zeros(24))
    assert found.share == 0.75
    assert found.sign_test == pytest.approx(2 * sum(math.comb(20, k) for k in range(6)) / 2**20, rel=1e-9)
    assert paired_difference(torch.zeros(3), torch.zeros(3)).sign_test == 1.0
    assert math.isnan(paired_difference(torch.zeros(3), torch.zeros(3)).share)


def test_monte_carlo_error_is_added_in_quadrature():
    rows = torch.tensor([0.0, 2.0, 4.0])
    alone, both = paired_difference(rows, torch.zeros(3)), paired_difference(rows, torch.zeros(3), 8.0)
    assert both.sum_se == pytest.approx(math.hypot(alone.sum_se, 8.0), rel=1e-12)
    assert both.mean_se == pytest.approx(both.sum_se / 3, rel=1e-12)
    assert both.sum == alone.sum
