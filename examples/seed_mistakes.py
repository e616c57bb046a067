"""What the mistakes in the project's two seed texts cost: one function for each, the numbers in docs/seeds.md come from here.

python examples/seed_mistakes.py
"""

import math

import torch
from torch import nn

from proxfactor import PGM, L2Squared, Simplex

R = torch.tensor([[4.5, 2.3, 0, 1.2], [4.6, 0, 0, 1.25], [1.0, 1.2, 0, 5.6], [1.8, 0, 0, 4.3], [0, 1.4, 5.32, 4.3]])  # 0: not rated


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def raises(error, action, *args):
    try:
        action(*args)
    except error:
        return True
    return False


def ratings(users=80, items=50, rank=2, noise=0.3):
    """Ratings around 3.5 with known factors; masks of the cells that are given (30 %) and held out (20 %)."""
    draw = generator(1)
    P, Q = (torch.randn(n, rank, generator=draw) for n in (users, items))
    full = 3.5 + 0.7 * P @ Q.T + noise * torch.randn(users, items, generator=draw)
    u = torch.rand(users, items, generator=draw)
    return full, u < 0.3, u > 0.8


def rmse(pred, truth, mask):
    return (pred - truth)[mask].square().mean().sqrt().item()


def fit(X, mask, beta=1.0, rank=3, epochs=800):
    """minimise ½ Σ over the mask of (P Qᵀ - X)² + β/2 (|P|² + |Q|²)."""
    draw = generator(2)
    P, Q = (nn.Parameter(torch.randn(n, rank, generator=draw)) for n in X.shape)
    optimizer = PGM([P, Q], L2Squared(beta), lr=0.005, momentum=0.5)
    for _ in range(epochs):
        optimizer.zero_grad()
        (0.5 * torch.where(mask, P @ Q.T - X, 0.0).square().sum()).backward()
        optimizer.step()
    return P.detach(), Q.detach()


def zeros_as_ratings():
    """A cell without a rating is fitted as a rating of zero."""
    full, given, held = ratings()
    P, Q = fit(torch.where(given, full, 0.0), torch.ones_like(given))
    mean = full[given].mean()
    P2, Q2 = fit(full - mean, given)
    return {
        "held-out RMSE, zeros fitted": rmse(P @ Q.T, full, held),
        "held-out RMSE, one mean for every cell": rmse(mean, full, held),
        "held-out RMSE, rated cells only": rmse(mean + P2 @ Q2.T, full, held),
    }


def loss_without_squares():
    """The norm in place of its square: the gradient keeps length one, so that a constant step never settles."""
    errors = {}
    for name, power in (("squared", 2), ("not squared", 1)):
        draw = generator(3)
        X = torch.rand(20, 2, generator=draw) @ torch.rand(2, 15, generator=draw)
        P, Q = (nn.Parameter(torch.rand(n, 2, generator=draw)) for n in X.shape)
        optimizer, errs = PGM([P, Q], None, lr=0.02), []
        for _ in range(2000):
            optimizer.zero_grad()
            torch.linalg.vector_norm(P @ Q.T - X).pow(power).backward()
            optimizer.step()
            errs.append(((P.detach() @ Q.detach().T - X).norm() / X.norm()).item())
        errors[f"relative error of a fit that could be exact, {name}"] = sum(errs[-500:]) / 500
    return errors


def wrong_regularisation_sign():
    """P -= α (2 E Q - β P) pushes the factors outward: the penalty becomes a reward."""
    full, given, held = ratings()
    mean = full[given].mean()
    costs = {}
    for name, sign in (("right sign", 1), ("wrong sign", -1)):
        draw = generator(2)
        P, Q = (torch.randn(n, 3, generator=draw) for n in full.shape)
        for _ in range(200):  # beyond 250 the wrong one is unstable, and its numbers are rounding's
            E = torch.where(given, P @ Q.T - (full - mean), 0.0)
            P, Q = P - 0.005 * (2 * E @ Q + sign * P), Q - 0.005 * (2 * E.T @ P + sign * Q)
        costs[f"held-out RMSE, {name}, β = 1"] = rmse(mean + P @ Q.T, full, held)
        costs[f"|P|² + |Q|², {name}"] = (P.square().sum() + Q.square().sum()).item()
    return costs


def half_beta_missing_on_Q(beta=0.02):
    """β/2 |P|² + |Q|² in place of β/2 (|P|² + |Q|²).

    With p/2 |P|² + q/2 |Q|² the best product has the singular values of R less √(pq), and |P|²/|Q|² is q/p: P and Q can be
    rescaled against each other, and the penalty is least where both halves are equal (Srebro, Rennie and Jaakkola 2004).
    """
    values = torch.linalg.svdvals(R)
    asked, got = beta, math.sqrt(beta * 2)
    return {
        "singular values shrunk by, β/2 on both": asked,
        "singular values shrunk by, β/2 on P alone": got,
        "relative error of the best fit, β/2 on both": (values.clamp(max=asked).norm() / values.norm()).item(),
        "relative error of the best fit, β/2 on P alone": (values.clamp(max=got).norm() / values.norm()).item(),
        "|P|²/|Q|², β/2 on both": 1.0,
        "|P|²/|Q|², β/2 on P alone": 2 / beta,
    }


def error_of_the_error():
    """E is P Qᵀ - R already; E - R is least where P Qᵀ is twice R."""
    return {
        "loss at a perfect fit": (0.5 * torch.linalg.vector_norm((R - R) - R)).item(),
        "loss at twice the data": (0.5 * torch.linalg.vector_norm((2 * R - R) - R)).item(),
    }


def factors_thrown_away(m=480, n=178, rank=10):
    """Only the product comes back: it is larger than the factors, and without Q nobody new can be served."""
    full, given, _ = ratings()
    mean = full[given].mean()
    _, Q = fit((full - mean)[:-20], given[:-20])
    new, has = (full - mean)[-20:], given[-20:]
    P = torch.stack([torch.linalg.solve(Q[h].T @ Q[h] + torch.eye(3), Q[h].T @ x[h]) for x, h in zip(new, has, strict=True)])
    known = torch.where(given, full, 0.0)[:-20].sum(0) / given[:-20].sum(0).clamp(min=1) - mean
    return {
        f"numbers kept for {m} x {n} and rank {rank}, the product": m * n,
        f"numbers kept for {m} x {n} and rank {rank}, the factors": (m + n) * rank,
        "RMSE on 20 new users, item means": rmse(known.expand_as(new), new, ~has),
        "RMSE on 20 new users, one small solve with Q each": rmse(P @ Q.T, new, ~has),
    }


def global_data():
    """The loss reads a global R: without it, it fails; with another R around, it measures against that one."""
    scope = {}
    exec("def loss(E): return (E - R).norm().item()", scope)  # a module of its own, as if imported
    failed = raises(NameError, scope["loss"], R)
    scope["R"] = 10 * R
    return {"NameError when imported": failed, "loss of R against another R that happens to be there": scope["loss"](R)}


def losses_at(lr_S, prox, steps=50):
    """A (20 x 3) at lr = 0.001 and S (3 x 50) at lr_S, momentum 0.5, from random factors and data, as in the first text."""
    draw = generator(4)
    A, S = nn.Parameter(torch.rand(20, 3, generator=draw)), nn.Parameter(torch.rand(3, 50, generator=draw))
    Y = torch.rand(20, 50, generator=draw)
    optimizer = PGM([{"params": A, "lr": 1e-3}, {"params": S, "lr": lr_S}], prox, momentum=0.5)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(A @ S, Y, reduction="sum")
        loss.backward()
        losses.append(loss.item())
        try:
            optimizer.step()
        except RuntimeError:  # a gradient that is not finite
            break
    return losses, S


def learning_rate_of_ten():
    """lr = 10 for S is far above what its curvature allows; non-negativity then only hides it, as every entry ends at zero."""
    free, _ = losses_at(10.0, None)
    bounded, S = losses_at(10.0, "nonneg")
    sane, _ = losses_at(0.01, "nonneg")
    return {
        "loss at the start": free[0],
        "steps until the gradient is no finite number, no constraint": len(free),
        "largest loss in 50 steps, non-negative": max(bounded),
        "entries of S that are zero after them": (S == 0).float().mean().item(),
        "loss after 50 steps, non-negative, lr = 10": bounded[-1],
        "loss after 50 steps, non-negative, lr = 0.01": sane[-1],
    }


def threshold_in_the_wrong_place():
    """Threshold is a module: it lives in torch.nn."""
    return {"torch.Threshold exists": hasattr(torch, "Threshold"), "torch.nn.Threshold exists": hasattr(nn, "Threshold")}


def length_of_a_prox():
    """A single operator is passed where len() of a list is taken."""
    prox = nn.Threshold(0, 0)
    optimizer = PGM([{"params": torch.zeros(2, requires_grad=True)} for _ in range(3)], prox, lr=0.1)
    return {"TypeError from len(prox)": raises(TypeError, len, prox), "groups that PGM serves with it": len(optimizer.param_groups)}


def columns_for_rows():
    """X / X.sum(dim=0) makes columns sum to one, the words around it speak of rows."""
    X = torch.rand(4, 6, generator=generator(5))
    Y = X / X.sum(dim=0)
    rows = Y.sum(dim=1)
    return {
        "column sums, smallest": Y.sum(dim=0).min().item(),
        "row sums, smallest": rows.min().item(),
        "row sums, largest": rows.max().item(),
        "row sums with Simplex(dim=1), largest": Simplex(dim=1)(X).sum(dim=1).max().item(),
    }


def entropy_with_step_zero():
    """The entropy operator is a ω(x/a - 1 - ln a) with a = step λ: step 0 divides by zero, or switches the penalty off."""
    from scipy.special import wrightomega

    from proxfactor import Entropy

    x = torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64)
    a = torch.zeros((), dtype=torch.float64)
    formula = a * torch.from_numpy(wrightomega((x / a - 1 - a.log()).numpy()))
    return {
        "entries of three that the formula turns to NaN": int(formula.isnan().sum()),
        "change by Entropy(1) at step 0": (Entropy(1.0)(x, 0.0) - x).abs().max().item(),
        "change by Entropy(1) at step 0.1": (Entropy(1.0)(x, 0.1) - x).abs().max().item(),
    }


def prox_without_step():
    """prox(p) in place of prox(p, lr): the penalty is taken in full at every step, 1/lr times too strong."""
    b = torch.tensor([0.5, 1.0, 3.0])
    found = {}
    for name, prox in (("prox(p)", lambda x: x.sign() * (x.abs() - 0.1).clamp(min=0)), ("prox(p, lr)", "l1(0.1)")):
        w = nn.Parameter(torch.zeros(3))
        optimizer = PGM([w], prox, lr=0.05)
        for _ in range(500):
            optimizer.zero_grad()
            (0.5 * (w - b).square().sum()).backward()
            optimizer.step()
        found[f"distance to the minimiser, {name}"] = (w.detach() - (b - 0.1)).abs().max().item()
    return found


MISTAKES = (
    zeros_as_ratings,
    loss_without_squares,
    wrong_regularisation_sign,
    half_beta_missing_on_Q,
    error_of_the_error,
    factors_thrown_away,
    global_data,
    learning_rate_of_ten,
    threshold_in_the_wrong_place,
    length_of_a_prox,
    columns_for_rows,
    entropy_with_step_zero,
    prox_without_step,
)


def main():
    costs = {mistake.__name__: mistake() for mistake in MISTAKES}
    for name, numbers in costs.items():
        print(name)
        for label, number in numbers.items():
            print(f"    {label:66} {number if isinstance(number, bool) else format(number, '.4g')}")
    return costs


if __name__ == "__main__":
    main()
