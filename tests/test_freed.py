"""Components of a given size, solved without it: the same optimum, met exactly, and sooner."""

import numpy as np
import pytest
import torch
from test_solvers import data

import proxfactor.fit as fit
from proxfactor import Problem, Tie, datasets, factorize
from proxfactor.freed import freed

SIZED = {
    "simplex(dim={})": lambda F, d: F.sum(d),
    "simplex(dim={}, total=3)": lambda F, d: F.sum(d) / 3,
    "nonnegativesphere(dim={})": lambda F, d: F.norm(dim=d),
    "sphere(dim={}, radius=2)": lambda F, d: F.norm(dim=d) / 2,
    "l1sphere(dim={})": lambda F, d: F.abs().sum(d),
}


def small():
    return datasets.planted(40, 30, 3, noise=0.1, seed=0)[0].clip(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cone", ["nonneg", "free", "isotonic(dim={})"])
@pytest.mark.parametrize("constraint", SIZED)
@pytest.mark.parametrize("side", "WH")
def test_the_way_back_keeps_the_product_and_meets_the_constraint(constraint, cone, dtype, side):
    dim = "WH".index(side)
    own, other = constraint.format(dim), cone.format(1 - dim)  # both act along a component
    problem = Problem(torch.rand(20, 30, dtype=dtype), "frobenius", *((own, other) if side == "W" else (other, own)))
    free, back = freed(problem)
    assert (free.prox_W if side == "W" else free.prox_H).cone
    W, H = torch.rand(20, 4, dtype=dtype), torch.rand(4, 30, dtype=dtype)
    W, H = free.prox_W(W, 0.0), free.prox_H(H, 0.0)
    w, h = back(W, H)
    torch.testing.assert_close(w @ h, W @ H)
    F = w if side == "W" else h
    torch.testing.assert_close(SIZED[constraint](F, dim), torch.ones(4, dtype=dtype))
    assert (problem.prox_W if side == "W" else problem.prox_H).value(F) == 0
    for once, twice in zip((w, h), back(w, h), strict=True):
        assert torch.equal(once, twice)


@pytest.mark.parametrize("constraint", SIZED)
def test_a_component_that_vanished_gets_its_size_and_a_zero_on_the_other_side(constraint):
    problem = Problem(small(), "frobenius", "nonneg", constraint.format(1))
    W, H = torch.rand(40, 3, dtype=torch.float64), torch.rand(3, 30, dtype=torch.float64)
    H[1] = 0
    w, h = freed(problem)[1](W, H)
    assert problem.prox_H.value(h) == 0
    torch.testing.assert_close(w @ h, W @ H)
    assert (w[:, 1] == 0).all()


class Pull(Tie):
    def value(self, W, H):
        return (W**2).sum()

    def model(self, A, B):
        raise NotImplementedError

    @property
    def T(self):
        return self


@pytest.mark.parametrize(
    ("W", "H"),
    [
        ("nonneg + l1(0.1)", "simplex(dim=1)"),  # the other side has a penalty
        ("box(0, 1)", "simplex(dim=1)"),  # or is no cone
        ("simplex(dim=0)", "simplex(dim=1)"),
        ("topk(dim=1, k=2)", "simplex(dim=1)"),  # or couples components
        ("nonneg", "simplex(dim=0)"),  # a size of something else than a component
        ("simplex(dim=1)", "nonneg"),
        (lambda x: x.clamp(min=0), "simplex(dim=1)"),
        ("nonneg", "nonneg"),
    ],
)
def test_where_scale_cannot_be_moved_the_problem_stays_as_it_is(W, H):
    problem = Problem(small(), "frobenius", W, H)
    free, back = freed(problem)
    assert free is problem
    A, B = torch.rand(40, 3), torch.rand(3, 30)
    assert back(A, B) == (A, B)
    tied = Problem(small(), "frobenius", "nonneg", "simplex(dim=1)", (Pull(),))
    assert freed(tied)[0] is tied


@pytest.mark.parametrize(
    ("kind", "loss"), [("dense", "frobenius"), ("observed", "frobenius"), ("sparse", "frobenius"), ("dense", "kl")]
)
@pytest.mark.parametrize(
    "constraints", [("nonneg", "simplex(dim=1)"), ("simplex(dim=0)", "nonneg"), ("nonneg", "nonnegativesphere(dim=1)")]
)
def test_a_fit_ends_inside_the_constraint_with_the_certificate_of_its_own_problem(kind, loss, constraints):
    X = data(kind)
    result = factorize(X, 3, W=constraints[0], H=constraints[1], loss=loss, tol=1e-4, max_iter=2000)
    assert result.converged
    assert max(result.violation.values()) < 1e-12
    certificate = max(c.item() for c in result.problem.certificate(*result.factors))
    assert certificate == pytest.approx(result.certificate, rel=1e-6, abs=1e-12)
    np.testing.assert_allclose(result.transform(X), result.W, rtol=1e-9, atol=1e-12)
    assert result.history[-1]["loss"] == pytest.approx(result.problem.value(*result.factors).item())


def test_what_is_solved_free_is_what_was_asked_for_and_takes_fewer_sweeps(monkeypatch):
    r = np.random.default_rng(0)
    W, H = r.random((40, 3)), r.random((3, 30))
    W[r.random(W.shape) < 0.5], H[r.random(H.shape) < 0.5] = 0, 0
    X = W @ H + 0.01 * r.random((40, 30))
    options = {"W": "nonneg", "H": "simplex(dim=1)", "init": "random", "solver": "hals"}
    free = factorize(X, 3, **options)
    monkeypatch.setattr(fit, "freed", lambda problem: (problem, lambda W, H: (W, H)))
    held = factorize(X, 3, **options)
    assert free.history[-1]["loss"] == pytest.approx(held.history[-1]["loss"], rel=1e-4)
    np.testing.assert_allclose(free.predict(), held.predict(), atol=1e-3)
    assert free.iterations < held.iterations
