"""Bayesian matrix factorization: draws against the definitions, kernel against torch, models against data that obeys them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from proxfactor.compiled import wait_for_kernels
from proxfactor.ratings import BayesianMF, bayes, gibbs, read_ratings
from proxfactor.ratings.bayes import Pattern
from proxfactor.ratings.gibbs import SHAPES, Cells, Draws, Means, draw_noise, govern, half, rows_for, rows_torch, side

DTYPE = torch.float64


@pytest.fixture(scope="module")
def compiled():
    return wait_for_kernels("ratings._gibbs_numba", DTYPE)


def normal(rng, *shape):
    return torch.from_numpy(rng.standard_normal(shape))


def system(k1, *, means=False, weighted=True, seed=0):
    """The arguments of a half-sweep: row 3 has 300 cells, more than fit at once, and row 7 none."""
    rng = np.random.default_rng(seed)
    row, col = rng.integers(0, 40, 700), rng.integers(0, 30, 700)
    row[:300], row[row == 7] = 3, 8
    cells = Cells.of(row, col, rng.standard_normal(700), rng.random(700) if weighted else None, 40)
    root = normal(rng, k1, k1)
    Z, V = normal(rng, 30, k1), normal(rng, 30, k1) ** 2 if means else None
    noise, own, P = normal(rng, 30) ** 2, normal(rng, 40) ** 2, root @ root.mT + torch.eye(k1, dtype=DTYPE)
    return cells, noise, own, Z, V, P, normal(rng, 40, k1), None if means else normal(rng, 40, k1)


def dense(cells, noise, Z, r):
    """Features, targets and precisions of the cells of a row."""
    at = slice(int(cells.indptr[r]), int(cells.indptr[r + 1]))
    col = cells.col[at].long()
    F = torch.cat([Z[col, :-1], torch.ones(len(col), 1, dtype=DTYPE)], 1)
    return F, cells.t[at] - Z[col, -1], noise[col] * cells.w[at], col


def test_a_row_is_drawn_from_its_gaussian_conditional():
    cells, noise, own, Z, V, P, H, _ = system(4)
    mean, _, squares = rows_torch(cells, noise, own, Z, V, P, H, torch.zeros(40, 4, dtype=DTYPE))
    steps = [rows_torch(cells, noise, own, Z, V, P, H, e.expand(40, 4))[0] - mean for e in torch.eye(4, dtype=DTYPE)]
    for r in (0, 3, 7, 20):
        F, t, p, _ = dense(cells, noise, Z, r)
        A = P + own[r] * F.mT @ (p[:, None] * F)
        assert torch.allclose(mean[r], torch.linalg.inv(A) @ (H[r] + own[r] * F.mT @ (p * t)))
        assert torch.allclose(sum(torch.outer(s[r], s[r]) for s in steps), torch.linalg.inv(A))
        assert torch.allclose(squares[r], (p * (t - F @ mean[r]) ** 2).sum())


def test_a_variational_row_lowers_the_expected_squares_as_far_as_it_can():
    cells, noise, own, Z, V, P, H, _ = system(4, means=True)
    mean, spread, squares = rows_torch(cells, noise, own, Z, V, P, H, None)

    def expected(r, z, v):
        """E Σ p (t - c - x·y - b)², all entries independent."""
        F, t, p, col = dense(cells, noise, Z, r)
        S = torch.cat([V[col, :-1], torch.zeros(len(col), 1, dtype=DTYPE)], 1)
        return (p * ((t - F @ z) ** 2 + V[col, -1] + S @ z**2 + (F**2 + S) @ v)).sum()

    def free_energy(r, z, v):
        return own[r] / 2 * expected(r, z, v) + (z @ P @ z + P.diagonal() @ v) / 2 - H[r] @ z - v.log().sum() / 2

    for r in (0, 3, 7):
        z, v = (x[r].clone().requires_grad_() for x in (mean, spread))
        slopes = torch.autograd.grad(free_energy(r, z, v), (z, v))
        assert max(float(s.abs().max()) for s in slopes) < 1e-9 * (1 + float(1 / spread[r].min()))
        assert torch.allclose(squares[r], expected(r, mean[r], spread[r]))


@pytest.mark.parametrize("means", [False, True], ids=["draws", "means"])
@pytest.mark.parametrize("k1", [2, 4, 9, 33])
def test_the_kernel_is_the_twin_of_the_torch_form(compiled, k1, means):
    for weighted in (True, False):
        given = system(k1, means=means, weighted=weighted)
        for a, b in zip(rows_torch(*given), compiled(*given), strict=True):
            assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-9, atol=1e-11)


def test_blocks_hold_every_row_once_and_no_more_cells_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(gibbs, "CELLS", 64)
    given = system(4)
    rows = torch.cat([block for block, _ in given[0].blocks])
    assert rows.sort().values.tolist() == list(range(40))
    assert all(len(block) == 1 or len(block) * longest <= 64 for block, longest in given[0].blocks)
    small = rows_torch(*given)
    monkeypatch.undo()
    assert torch.allclose(small[0], rows_torch(*system(4))[0])


# what is drawn


def draw_of_prior(known, group, chance, k1, tied):
    """(tau, P, B, Z, shape, rate, noise) as the model has them before there is data."""
    tau = torch.from_numpy(np.r_[1.0, chance.rng.gamma(0.5, 2, int(group.max()))])
    P = chance.wishart(k1 + 1, torch.eye(k1, dtype=DTYPE))

    def rows(n):
        return torch.linalg.solve_triangular(torch.linalg.cholesky(P), chance.normal(n, k1), upper=False, left=False)

    B = rows(known.shape[1]) / tau[group].sqrt()[:, None]
    shape = SHAPES[chance.rng.integers(len(SHAPES))]
    rate = shape if tied else chance.gamma(torch.tensor(gibbs.VAGUE))[0] / gibbs.VAGUE
    noise = torch.from_numpy(chance.rng.gamma(float(shape), 1 / float(rate), len(known)))
    return tau, P, B, known @ B + rows(len(known)), shape, rate, noise


def numbers(s):
    tame = torch.cat([s.B.flatten(), s.Z[:2].flatten(), (s.Z[0] * s.Z[1]).flatten(), s.Z[0, :1] * s.Z[0, 1:]]).tanh()
    logs = torch.stack([s.tau[1], s.P[0, 0], s.P[-1, -1], torch.linalg.det(s.P), s.shape, s.rate, s.noise[0], s.noise.prod()]).log()
    sizes = torch.cat([s.B.flatten() ** 2, (s.Z**2).mean(0)]).log()
    return torch.cat([tame, logs, sizes])


def test_a_sweep_leaves_the_posterior_as_it_is(monkeypatch):
    """Parameters from the prior and data from the parameters: after a sweep that sees the data, they are from the prior still."""
    monkeypatch.setattr(gibbs, "VAGUE", 2.0)
    chance, group = Draws(0), torch.tensor([0, 1])
    user, item = np.array([(u, i) for u in range(4) for i in range(3) if (u + i) % 4]).T
    w = chance.rng.random(len(user)) + 0.5
    known = [torch.cat([torch.ones(r, 1, dtype=DTYPE), chance.normal(r, 1)], 1) for r in (4, 3)]
    moved = []
    for _ in range(300):
        priors = [draw_of_prior(f, group, chance, 2, tied) for f, tied in zip(known, (False, True), strict=True)]
        (X, alpha), (Y, beta) = ((p[3], p[6]) for p in priors)
        t = (X[user, :-1] * Y[item, :-1]).sum(1) + X[user, -1] + Y[item, -1]
        t = (t + chance.normal(len(t)) / (torch.from_numpy(w) * alpha[user] * beta[item]).sqrt()).numpy()
        users = side(Cells.of(user, item, t, w, 4), known[0], group, X, tied=False)
        items = side(Cells.of(item, user, t, w, 3), known[1], group, Y, tied=True)
        for s, p in zip((users, items), priors, strict=True):
            s.tau, s.P, s.B, s.Z, s.shape, s.rate, s.noise = p
        before = torch.cat([numbers(users), numbers(items)])
        half(users, items, chance, rows_torch)
        half(items, users, chance, rows_torch)
        moved.append(torch.cat([numbers(users), numbers(items)]) - before)
    d = torch.stack(moved)
    assert float((d.mean(0) / d.std(0) * len(d) ** 0.5).abs().max()) < 3.7  # of 62 numbers; 4 in 100,000 are beyond, each


def test_wishart_draws_have_the_moments_of_the_wishart():
    chance, S = Draws(1), torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=DTYPE)
    draws = torch.stack([chance.wishart(5, S) for _ in range(4000)])
    V = torch.linalg.inv(S)
    variance = 5 * (V**2 + torch.outer(V.diagonal(), V.diagonal()))
    assert torch.allclose(draws.mean(0), 5 * V, atol=4 * float((variance.max() / 4000).sqrt()))
    assert torch.allclose(draws.var(0), variance, rtol=0.2)
    assert torch.allclose(Means().wishart(5, S), 5 * V)


def test_one_of_draws_by_the_odds():
    chance, values = Draws(2), torch.tensor([1.0, 2.0, 3.0], dtype=DTYPE)
    odds = torch.tensor([0.2, 0.5, 0.3], dtype=DTYPE).log() + 1000
    found = np.array([float(chance.one_of(values, odds)) for _ in range(3000)])
    assert [np.mean(found == v) for v in (1, 2, 3)] == pytest.approx([0.2, 0.5, 0.3], abs=0.04)
    assert float(Means().one_of(values, odds)) == 2


def test_what_governs_rows_is_found_where_there_are_many():
    chance = Draws(3)
    known = torch.cat([torch.ones(4000, 1, dtype=DTYPE), chance.normal(4000, 1)], 1)
    B, root = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=DTYPE), torch.tensor([[2.0, 0.0], [1.0, 1.0]], dtype=DTYPE)
    Z = known @ B + torch.linalg.solve_triangular(root, chance.normal(4000, 2), upper=False, left=False)
    cells = Cells.of(np.arange(4000), np.zeros(4000, int), np.zeros(4000), None, 4000)
    for way, means in ((chance, False), (Means(), True)):
        s = side(cells, known, torch.tensor([0, 1]), Z, tied=False, means=means)
        s.V = None if s.V is None else 0 * s.V
        govern(s, way)
        assert torch.allclose(s.B, B, atol=0.1)
        assert torch.allclose(s.P, root @ root.mT, rtol=0.15, atol=0.15)


def test_the_noise_of_rows_is_found_where_they_have_many_cells():
    chance = Draws(4)
    true = torch.tensor([0.5, 1.0, 4.0], dtype=DTYPE)
    cells = Cells.of(np.repeat(np.arange(3), 2000), np.zeros(6000, int), np.zeros(6000), None, 3)
    for way in (chance, Means()):
        s = side(cells, torch.ones(3, 1, dtype=DTYPE), torch.tensor([0]), torch.zeros(3, 2, dtype=DTYPE), tied=False)
        s.squares = 2000 / true
        draw_noise(s, way)
        assert torch.allclose(s.noise, true, rtol=0.12)
        assert torch.allclose(s.variance, 1 / true, rtol=0.02)


# models


def planted(seed=0, m=60, n=40, share=0.4, noise=0.5, loud=()):
    """(users, items, ratings) of rank 2 about 3; the users in ``loud`` have three times the noise."""
    rng = np.random.default_rng(seed)
    X, Y, b = rng.standard_normal((m, 2)), rng.standard_normal((n, 2)), rng.standard_normal(m)
    u, i = np.nonzero(rng.random((m, n)) < share)
    return u, i, 3 + (X[u] * Y[i]).sum(1) + b[u] + noise * np.where(np.isin(u, loud), 3, 1) * rng.standard_normal(len(u))


def parts(table, share=0.8, seed=1):
    inside = np.random.default_rng(seed).random(len(table[0])) < share
    return tuple(a[inside] for a in table), tuple(a[~inside] for a in table)


def small(method="gibbs", **options):
    return BayesianMF(**{"rank": 3, "sweeps": 60, "method": method} | options)


def unclipped(model, table):
    return replace(model.model_, low=None, high=None).predict(table[0], table[1], return_std=True)


METHODS = pytest.mark.parametrize("method", ["gibbs", "vb"])


@METHODS
def test_held_out_ratings_are_predicted_almost_to_the_noise(method):
    train, test = parts(planted(m=120, n=80))
    score, _ = unclipped(small(method).fit(train), test)
    assert np.sqrt(np.mean((score - test[2]) ** 2)) < 1.2 * 0.5


@METHODS
def test_intervals_hold_what_they_promise_and_are_wider_where_the_noise_is(method):
    loud = np.arange(0, 120, 3)
    train, test = parts(planted(m=120, n=80, loud=loud), 0.7)
    model = small(method).fit(train)
    for level in (0.5, 0.9):
        low, high = model.predict_interval(test[0], test[1], level)
        inside = (low <= test[2]) & (test[2] <= high)
        for some in (np.isin(test[0], loud), ~np.isin(test[0], loud)):
            assert inside[some].mean() == pytest.approx(level, abs=0.06)
    std = unclipped(model, test)[1]
    assert std[np.isin(test[0], loud)].mean() > 2 * std[~np.isin(test[0], loud)].mean()


def test_few_ratings_make_a_prediction_less_sure():
    u, i, r = planted(noise=0.2)
    few = (u != 0) | (np.cumsum(u == 0) <= 2)
    tables = (u, i, r), (u[few], i[few], r[few])
    std = [small().fit(table).predict(np.zeros(40, int), np.unique(i), return_std=True)[1] for table in tables]
    assert std[1].mean() > 1.5 * std[0].mean()


@METHODS
def test_the_unit_of_the_ratings_does_not_matter(method):
    u, i, r = planted()
    score, std = unclipped(small(method).fit((u, i, r)), (u, i))
    for unit in (1e-4, 1e4):
        got, wide = unclipped(small(method).fit((u, i, r * unit)), (u, i))
        assert got / unit == pytest.approx(score, rel=1e-5, abs=1e-5)
        assert wide / unit == pytest.approx(std, rel=1e-5)


@METHODS
def test_the_same_seed_gives_the_same_model_with_the_kernel_or_without_and_on_any_number_of_threads(method, compiled, monkeypatch):
    table, threads = planted(), torch.get_num_threads()
    one = small(method).fit(table).model_
    monkeypatch.setattr(bayes, "rows_for", lambda *_: compiled)
    two = small(method).fit(table).model_
    try:
        torch.set_num_threads(3)
        three = small(method).fit(table).model_
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(two.X, three.X)
    assert np.allclose(one.X @ one.Y.T, two.X @ two.Y.T, atol=1e-4)
    if method == "gibbs":
        assert not np.array_equal(one.X, small(seed=1).fit(table).model_.X)


def test_what_is_worth_compiling_is_decided_by_the_data_alone(compiled):
    assert rows_for(100, 3, 10, "cpu") is rows_torch
    assert rows_for(10**6, 33, 200, "cpu") is compiled


def test_who_rated_what_is_information():
    """Every user likes one half of the items, and rates more of these: what a user rated says what the others are worth."""
    rng = np.random.default_rng(0)
    kind, half_of = rng.integers(0, 2, 200), np.arange(60) % 2
    u, i = np.nonzero(rng.random((200, 60)) < np.where(kind[:, None] == half_of, 0.2, 0.05))
    r = 3 + (kind[u] == half_of[i]) + rng.standard_normal(len(u))
    u, i, r = u[i < 40], i[i < 40], r[i < 40]
    all_u, all_i = (a.ravel() for a in np.meshgrid(np.unique(u), np.unique(i), indexing="ij"))
    model = small(rank=2, sweeps=100).fit((u, i, r))
    blind = small(rank=2, sweeps=100)
    blind._side = lambda cells, known, *rest, **more: BayesianMF._side(blind, cells, known[:, :1].copy(), *rest, **more)
    blind.fit((u, i, r))
    truth = 3 + (kind[all_u] == half_of[all_i])
    error, without = (np.mean((fit.predict(all_u, all_i) - truth) ** 2) for fit in (model, blind))
    assert error < 0.8 * without


def test_the_pattern_of_users_who_come_later_is_that_of_the_fit():
    ratings = read_ratings(planted())
    pattern = Pattern.of(ratings, 4)
    assert np.allclose(pattern.known(ratings), pattern.users)
    assert pattern.users.shape == (60, 6)
    assert pattern.items.shape == (40, 6)
    assert np.allclose(pattern.users[:, 1:].std(0), 1)


def test_a_full_table_has_no_pattern():
    u, i = (a.ravel() for a in np.meshgrid(np.arange(6), np.arange(5), indexing="ij"))
    pattern = Pattern.of(read_ratings((u, i, np.ones(30))), 3)
    assert np.allclose(pattern.users[:, 1:], 0)
    assert np.allclose(pattern.items[:, 1:], 0)


@METHODS
def test_folded_in_users_are_what_a_fit_makes_of_them(method):
    table = planted()
    model = small(method).fit(table)
    score, std = unclipped(model, table)
    new = (np.array([f"new {user}" for user in table[0]]), *table[1:])
    got, wide = unclipped(model.fold_in(new), new)
    tolerance = 0.25 if method == "gibbs" else 0.02  # of a standard deviation: 48 draws, or none
    assert np.sqrt(np.mean(((got - score) / std) ** 2)) < tolerance
    assert np.mean(np.abs(wide / std - 1)) < tolerance / 2


@METHODS
def test_partial_fit_is_a_refit_to_the_error_of_the_draws(method):
    table = planted()
    score, std = unclipped(small(method, sweeps=100).fit(table), table)
    first = table[0] < 50
    model = small(method, sweeps=100).fit(tuple(a[first] for a in table)).partial_fit(tuple(a[~first] for a in table))
    got, _ = unclipped(model, table)
    assert np.sqrt(np.mean(((got - score) / std) ** 2)) < (0.25 if method == "gibbs" else 0.1)


def test_partial_fit_goes_on_from_the_last_draw():
    train, more = parts(planted())
    model = small(sweeps=60).fit(train)
    model.sweeps, model.burn_in = 1, 0
    model.partial_fit(more)
    cold = small(sweeps=1, burn_in=0).fit(planted())
    assert model.history_[0]["error"] < 0.7 * cold.history_[0]["error"]


def test_a_rating_of_no_weight_is_as_good_as_none():
    u, i, r = planted()
    there = np.random.default_rng(5).random(len(u)) < 0.8
    table = {"user": u, "item": i, "rating": np.where(there, r, 1e6), "w": there.astype(float)}
    import pyarrow as pa

    a = small().fit(pa.table(table), weight="w").model_
    b = small().fit((u[there], i[there], r[there])).model_
    assert np.allclose(a.X, b.X)
    assert np.allclose(a.noise, b.noise)


def test_weights_are_precisions():
    u, i, r = planted(m=100, n=60, noise=0.3)
    rng = np.random.default_rng(6)
    w = np.where(rng.random(len(u)) < 0.5, 1.0, 0.01)
    noisy = r + rng.standard_normal(len(u)) * np.where(w < 1, 2.7, 0)
    import pyarrow as pa

    def error(**weight):
        table = pa.table({"user": u, "item": i, "rating": noisy, "w": w})
        model = small().fit(table, "user", "item", "rating", **weight)
        return np.mean((unclipped(model, (u, i))[0] - r)[w < 1] ** 2)

    assert error(weight="w") < 0.5 * error()


def test_kept_draws_are_evenly_spaced_and_fit_into_the_memory(monkeypatch):
    table = planted()
    assert small().fit(table).model_.draws == 48
    all_, some = small().fit(table).model_, small(draws=12).fit(table).model_
    assert some.draws == 12
    every_fourth = all_.Y.reshape(40, 48, 3)[:, 3::4]
    assert np.array_equal(some.Y.reshape(40, 12, 3), every_fourth)
    monkeypatch.setattr(bayes, "BYTES", 4 * 100 * 4 * 5)
    assert small().fit(table).model_.draws == 5


def test_points_have_the_means_and_the_variances_that_they_stand_for():
    rng = np.random.default_rng(0)
    Z, W, V, S = normal(rng, 5, 4), normal(rng, 5, 4), normal(rng, 5, 4) ** 2, normal(rng, 5, 4) ** 2
    X, Y = bayes._points(Z, V, 0), bayes._points(W, S, 1)
    assert torch.allclose(X.mean(1), Z)
    assert torch.allclose(X.var(1, correction=0), V)
    assert torch.allclose((X * Y).mean(1), Z * W)
    assert torch.allclose((X * Y).var(1, correction=0), Z**2 * S + W**2 * V + V * S)


@METHODS
def test_a_saved_model_answers_and_goes_on(method, tmp_path):
    train, more = parts(planted())
    model = small(method).fit(train)
    model.save(tmp_path / "model")
    loaded = BayesianMF.load(tmp_path / "model")
    assert loaded == model
    for a, b in zip(unclipped(model, train), unclipped(loaded, train), strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(model.fold_in(train).model_.X, loaded.fold_in(train).model_.X)
    assert np.allclose(model.partial_fit(more).model_.X, loaded.partial_fit(more).model_.X, atol=1e-4)


def test_the_callback_sees_the_error_fall_and_may_stop():
    table, seen = planted(), []
    model = small().fit(table, callback=lambda row: seen.append(row) or row["sweep"] == 30)
    assert [row["sweep"] for row in seen] == list(range(1, 31))
    assert seen[-1]["error"] < 0.5 * seen[0]["error"]
    assert model.model_.draws == 18  # all after the twelfth
    assert small().fit(table, callback=lambda row: True).model_.draws == 1


@METHODS
def test_ratings_that_are_all_equal_are_predicted_so(method):
    u, i, _ = planted()
    score, std = unclipped(small(method).fit((u, i, np.full(len(u), 3.0))), (u, i))
    assert score == pytest.approx(3, abs=0.02)
    assert std.max() < 0.3


def test_ratings_without_noise_stay_finite_and_are_found():
    u, i, r = planted(noise=0)
    score, std = unclipped(small().fit((u, i, r)), (u, i))
    assert score == pytest.approx(r, abs=1e-2)
    assert np.isfinite(std).all()


def test_a_user_of_whom_nothing_is_known_gets_what_a_typical_one_would():
    u, i, r = planted(share=0.8)
    ratings = read_ratings((u, i, r))
    model = small().fit(ratings.take(ratings.user != 7))
    mean = np.array([r[(i == item) & (u != 7)].mean() for item in range(40)])
    score = model.predict(np.full(40, 7), np.arange(40))
    assert np.corrcoef(score, mean)[0, 1] > 0.7
    assert score.mean() == pytest.approx(mean.mean(), abs=0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank is 0; at least one"),
        ({"method": "mcmc"}, "method is 'mcmc'; it must be one of 'gibbs', 'vb'"),
        ({"sweeps": 10, "burn_in": 10}, "leave no draw; sweeps must be more"),
        ({"sweeps": 0}, "leave no draw"),
        ({"burn_in": -1}, "leave no draw"),
        ({"draws": 0}, "draws is 0; keep at least one"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BayesianMF(**options).fit(planted())


def test_no_weight_at_all_and_levels_that_are_no_probabilities_are_refused():
    import pyarrow as pa

    table = pa.table({"user": [1, 2], "item": [1, 2], "rating": [1.0, 2.0], "w": [0.0, 0.0]})
    with pytest.raises(ValueError, match="no rating has a weight above zero"):
        BayesianMF().fit(table, weight="w")
    with pytest.raises(ValueError, match="level is 90; it is a probability"):
        small(sweeps=5).fit(planted()).predict_interval(0, 0, 90)
