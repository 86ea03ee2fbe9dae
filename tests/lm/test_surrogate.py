"""surrogate_loss: the contraction of coefficients with autograd."""

from __future__ import annotations

import pytest
import torch

from lm.surrogate import surrogate_loss


def test_gradient_is_the_mean_of_coefficients_times_scores():
    theta = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    log_policy = torch.log_softmax(theta, -1)
    coefficients = torch.tensor([2.0, -5.0, 0.25], dtype=torch.float64)
    _ = surrogate_loss(log_policy, coefficients).backward()
    # d log softmax_i / d theta_j = [i = j] - softmax_j
    scores = torch.eye(3, dtype=torch.float64) - torch.softmax(theta.detach(), -1)
    expected = (coefficients[:, None] * scores).mean(0)
    assert theta.grad is not None
    torch.testing.assert_close(theta.grad, expected, rtol=1e-14, atol=0)


def test_coefficients_that_require_grad_are_detached():
    theta = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    log_policy = torch.log_softmax(theta, -1)
    # Depends on log pi as the signal does; differentiated, it would add its own gradient.
    _ = surrogate_loss(log_policy, log_policy * 3.0).backward()
    attached = theta.grad
    theta.grad = None
    again = torch.log_softmax(theta, -1)
    _ = surrogate_loss(again, (again * 3.0).detach()).backward()
    assert attached is not None
    assert theta.grad is not None
    torch.testing.assert_close(attached, theta.grad, rtol=0, atol=0)
    assert float(attached.norm()) > 0.1


def test_gradient_is_zero_without_a_policy_graph():
    coefficients = torch.ones(2, requires_grad=True)
    assert not surrogate_loss(torch.zeros(2), coefficients).requires_grad


@pytest.mark.parametrize("shape", [(), (1,), (4, 1), (3,)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"log_policy has shape \(4,\)"):
        _ = surrogate_loss(torch.zeros(4), torch.zeros(shape))
