"""A race of rates: each lane from the same start, the best goes on, and a state brings all of it back."""

import pytest
import torch
from torch import nn

from bayesreg.solvers import EagerAdam, Raced

BATCH = [(torch.zeros(1), torch.zeros(1))]


def made(shares, steps=40, starts=None):
    """On |u|: a large rate arrives sooner, and a very large one oscillates about zero."""
    parameter = nn.Parameter(torch.full((3,), 2.0, dtype=torch.float64))
    parameter.grad = torch.zeros_like(parameter)

    def backward(x, y):
        parameter.grad.add_(parameter.detach().sign())
        return parameter.detach().abs().sum()

    return Raced(EagerAdam(parameter, backward), shares, steps, starts)


def losses(stepper, count):
    return [float(stepper.advance(BATCH, [1.0], False)[0]) for _ in range(count)]


@pytest.mark.parametrize(("shares", "best"), [((0.05, 0.01), 0.05), ((0.01, 0.05), 0.05), ((3.0, 0.1, 0.001), 0.1)])
def test_the_lane_that_comes_furthest_goes_on(shares, best):
    stepper = made(shares)
    whole = losses(stepper, 40 * len(shares) + 1)
    assert [whole[40 * k] for k in range(len(shares))] == [6.0] * len(shares)  # every lane starts at the start
    assert stepper.share == best
    alone = made((best,))
    assert losses(alone, 41)[-1] == whole[-1]
    alone.advance(BATCH, [1.0], False)
    stepper.advance(BATCH, [1.0], False)
    assert stepper.parameter.equal(alone.parameter)


@pytest.mark.parametrize("done", [10, 40, 55, 80, 90])
def test_a_state_brings_the_race_back(done):
    one, other = made((0.05, 0.01)), made((0.05, 0.01))
    losses(one, done)
    other.restore(one.state())
    assert losses(one, 60) == losses(other, 60)
    assert other.share == one.share


def test_each_lane_has_its_start():
    starts = [torch.full((3,), value, dtype=torch.float64) for value in (5.0, 1.0)]
    stepper = made((0.01, 0.01), 10, starts)
    whole = losses(stepper, 21)
    assert (whole[0], whole[10]) == (15.0, 3.0)
    assert whole[20] < 3.0
