"""The mean of the last iterates: of those at a slow rate only, kept and restored with the stepper's state."""

import torch
from torch import nn

from bayesreg.solvers import Averaged, EagerAdam

BATCH = [(torch.zeros(1), torch.zeros(1))]


def made():
    parameter = nn.Parameter(torch.ones(3, dtype=torch.float64))
    parameter.grad = torch.zeros_like(parameter)

    def backward(x, y):
        parameter.grad.add_(parameter.detach())
        return 0.5 * parameter.detach().square().sum()

    return Averaged(EagerAdam(parameter, backward), 0.15)


def test_points_count_once_the_rate_has_fallen():
    stepper = made()
    for rate in (1.0, 0.5, 0.2):
        stepper.advance(BATCH, [rate], False)
    assert stepper.answer.equal(stepper.parameter.detach())  # none counts yet
    points = []
    for rate in (0.1, 0.05, 0.0):
        stepper.advance(BATCH, [rate], False)
        points.append(stepper.parameter.detach().clone())
    torch.testing.assert_close(stepper.answer, torch.stack(points).mean(0))


def test_a_state_brings_the_mean_back():
    rates = [1.0, 0.1, 0.09, 0.08, 0.02]
    whole, half, other = made(), made(), made()
    for rate in rates:
        whole.advance(BATCH, [rate], False)
    for rate in rates[:3]:
        half.advance(BATCH, [rate], False)
    other.restore(half.state())
    for rate in rates[3:]:
        other.advance(BATCH, [rate], False)
    assert other.answer.equal(whole.answer)
