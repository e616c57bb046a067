"""Losses against autograd, finite differences and the dense sum."""

import math

import pytest
import torch
from scipy.special import kl_div

from proxfactor.losses import KL, Frobenius, Loss, as_loss

EXAMPLES = [Frobenius(), KL()]


def positive(seed, *shape):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3 + 0.05


@pytest.mark.parametrize("loss", EXAMPLES, ids=repr)
def test_the_gradient_is_that_of_autograd_and_of_finite_differences(loss):
    p, x = positive(0, 40), positive(1, 40)
    x[:5] = 0
    grad = loss.grad(p, x)
    assert torch.allclose(grad, Loss.grad(loss, p, x), atol=1e-12)
    h = 1e-6
    assert torch.allclose(grad, (loss(p + h, x) - loss(p - h, x)) / (2 * h), atol=1e-6)
    assert not p.requires_grad


@pytest.mark.parametrize("loss", EXAMPLES, ids=repr)
def test_a_loss_is_zero_at_the_data_and_positive_elsewhere(loss):
    x = positive(2, 30)
    assert torch.equal(loss(x, x), torch.zeros(30).double())
    assert (loss(positive(3, 30), x) > 0).all()


def test_the_squared_loss_lies_under_its_parabola_exactly():
    loss, p, q, x = Frobenius(), positive(4, 30), positive(5, 30), positive(6, 30)
    bound = loss(p, x) + loss.grad(p, x) * (q - p) + loss.curvature(p, x) / 2 * (q - p) ** 2
    assert torch.allclose(loss(q, x), bound)


def test_the_curvature_of_kl_is_its_second_derivative():
    p, x, h = positive(7, 30) + 0.2, positive(8, 30), 1e-5
    second = (KL().grad(p + h, x) - KL().grad(p - h, x)) / (2 * h)
    assert torch.allclose(KL().curvature(p, x), second, rtol=1e-6)
    assert KL().curvature(p, 0 * x).abs().max() == 0


def test_the_yardstick_of_kl_does_not_vanish_where_the_data_is_zero():
    p, x = torch.tensor([2.0, 2.0, 2.0, 0.0]), torch.tensor([0.0, 1.0, 8.0, 0.0])
    assert KL().yardstick(p, x).tolist() == [0.5, 0.5, 2.0, 0.0]
    assert torch.equal(Frobenius().yardstick(p, x), torch.ones(4))


@pytest.mark.parametrize("loss", EXAMPLES, ids=repr)
def test_at_zero_is_the_sum_over_a_matrix_of_zeros_and_its_gradient(loss):
    A, B = positive(9, 5, 3).requires_grad_(), positive(10, 7, 3)
    dense = loss(A @ B.mT, torch.zeros(5, 7).double()).sum(1)
    value, grad = loss.at_zero(A.detach(), B)
    assert torch.allclose(value, dense)
    assert torch.allclose(grad, torch.autograd.grad(dense.sum(), A)[0])
    assert grad.shape == A.shape


@pytest.mark.parametrize("loss", EXAMPLES, ids=repr)
def test_the_degree_is_that_of_the_scale(loss):
    p, x = positive(11, 20), positive(12, 20)
    for c in (1e-3, 5.0):
        assert torch.allclose(loss(c * p, c * x), c**loss.degree * loss(p, x), rtol=1e-9)


@pytest.mark.parametrize("ratio", [1e-15, 1e-12, 1e-8, 1e-4, 1e-2, 0.0999, 0.1001, 0.5, 3.0, 1e10, 1e100])
def test_kl_is_precise_near_and_far_from_the_data(ratio):
    for x in (1.0, 3.7, 1e-8, 1e12):
        for p in (x * (1 + ratio), x * (1 - ratio), x / (1 + ratio)):
            if p <= 0:
                continue
            u = (p - x) / x  # the relative difference as the two numbers have it
            expected = x * sum((-u) ** k / k for k in range(2, 9)) if abs(u) < 1e-3 else kl_div(x, p)
            got = KL()(torch.tensor(p, dtype=torch.float64), torch.tensor(x, dtype=torch.float64)).item()
            assert got == pytest.approx(expected, rel=1e-11, abs=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_is_never_nan_on_what_is_not_negative_nor_is_its_gradient(dtype):
    info = torch.finfo(dtype)
    ends = torch.tensor([0.0, info.smallest_normal / 8, info.smallest_normal, 1e-20, 1e-3, 1.0, 1e20, info.max / 1e4], dtype=dtype)
    p, x = (t.reshape(-1).clone() for t in torch.meshgrid(ends, ends, indexing="ij"))
    assert torch.equal(KL()(p, x) == math.inf, (p == 0) & (x > 0))
    for values in (KL()(p, x), KL().grad(p, x), KL().curvature(p, x), KL().yardstick(p, x), Loss.grad(KL(), p, x)):
        assert not values.isnan().any()
        assert values.dtype == dtype
    assert (KL()(p, x) >= 0).all()


def test_kl_at_its_edges():
    p, x = torch.tensor([0.0, 0.0, 2.0, -1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert KL()(p, x).tolist() == [0.0, math.inf, 2.0, math.inf]
    assert KL().grad(p, x).tolist() == [1.0, -math.inf, 1.0, 2.0]
    far = KL()(torch.tensor(1e-20, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)).item()
    assert far == pytest.approx(20 * math.log(10) - 1)


def test_kl_refuses_negative_data_and_takes_the_rest():
    KL().check(torch.tensor([0.0, 1.0]))
    KL().check(torch.zeros(0))
    Frobenius().check(torch.tensor([-1.0]))
    with pytest.raises(ValueError, match=r"not negative.*-2.*frobenius"):
        KL().check(torch.tensor([0.0, -2.0]))


def test_a_loss_without_a_closed_form_at_zero_says_what_to_do():
    class Cubic(Loss):
        def __call__(self, pred, x):
            return (pred - x).abs() ** 3

        def curvature(self, pred, x):
            return 6 * (pred - x).abs()

        def _write(self, tensors):
            return "Cubic()"

    with pytest.raises(ValueError, match=r"Cubic.*dense array.*Observed"):
        Cubic().at_zero(torch.ones(1, 1), torch.ones(1, 1))
    assert Cubic().grad(torch.tensor([3.0]), torch.tensor([1.0])).tolist() == [12.0]
    assert Cubic().at(None).T.mean(torch.tensor(2.0)) == 2


def test_as_loss_reads_losses_and_names():
    kl = KL()
    assert as_loss(kl) is kl
    assert isinstance(as_loss("squared"), Frobenius)
    with pytest.raises(ValueError, match="did you mean Frobenius"):
        as_loss("frobenios")
    with pytest.raises(TypeError, match="a loss is needed"):
        as_loss(3)
