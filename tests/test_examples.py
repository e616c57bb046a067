"""The examples run as they stand, and what they and their page say is so."""

import importlib.util
import math
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def fits():
    return load("proximal_nmf").main()


@pytest.fixture(scope="module")
def costs():
    return load("seed_mistakes").main()


# ── proximal_nmf ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_fit_reaches_the_noise(fits):
    assert all(fit["error"] < 0.007 for fit in fits.values())


def test_only_the_constraint_finds_the_spectra(fits):
    free, *constrained = fits.values()
    assert free["cosine"] < 0.99
    assert free["smallest"] < -0.1
    assert all(fit["cosine"] > 0.999 and fit["smallest"] >= 0 for fit in constrained)


def test_the_columns_sum_to_one_where_they_are_told_to(fits):
    told = [fit["sum"] for name, fit in fits.items() if re.search("Normalize|Simplex|each|entropy|sparse", name)]
    assert len(told) == 7
    assert told == pytest.approx([1.0] * 7, abs=1e-5)


def test_entropy_leaves_no_zeros_and_the_sparse_penalty_finds_a_third(fits):
    assert fits["Simplex and entropy"]["zeros"] == fits["PGM, entropy"]["zeros"] == 0
    assert fits["PGM, sparse amounts"]["zeros"] == pytest.approx(1 / 3, abs=0.02)


# ── seed_mistakes ─────────────────────────────────────────────────────────────────────────────────────────────────────


def numbers(costs, name):
    return tuple(costs[name].values())


def test_zeros_fitted_as_ratings_are_worse_than_one_mean(costs):
    zeros, mean, rated = numbers(costs, "zeros_as_ratings")
    assert rated < 0.5 * mean < mean < zeros


def test_a_norm_without_its_square_does_not_settle(costs):
    squared, bare = numbers(costs, "loss_without_squares")
    assert squared < 1e-5 < 1e-3 < bare


def test_the_wrong_sign_lets_the_factors_grow(costs):
    right, right_size, wrong, wrong_size = numbers(costs, "wrong_regularisation_sign")
    assert wrong > right
    assert wrong_size > 2 * right_size


def test_a_missing_half_beta_shrinks_ten_times_as_much(costs):
    asked, got, small, large, even, uneven = numbers(costs, "half_beta_missing_on_Q")
    assert (got / asked, large / small, even, uneven) == pytest.approx((10, 10, 1, 100), rel=1e-4)


def test_the_error_of_the_error_is_least_at_twice_the_data(costs):
    fit, twice = numbers(costs, "error_of_the_error")
    assert fit > twice == 0


def test_factors_are_smaller_than_the_product_and_serve_new_users(costs):
    product, factors, without, with_q = numbers(costs, "factors_thrown_away")
    assert factors < product / 10
    assert with_q < 0.5 * without


def test_a_global_fails_or_misleads(costs):
    failed, misled = numbers(costs, "global_data")
    assert failed
    assert misled > 100


def test_a_learning_rate_of_ten_diverges_or_ends_at_zero(costs):
    start, steps, largest, zeros, ten, sane = numbers(costs, "learning_rate_of_ten")
    assert steps < 10
    assert largest > 1e4 * start
    assert zeros == 1
    assert ten > 3 * sane


def test_the_api_mistakes_are_as_stated(costs):
    assert numbers(costs, "threshold_in_the_wrong_place") == (False, True)
    assert numbers(costs, "length_of_a_prox") == (True, 3)


def test_dividing_by_column_sums_leaves_the_rows_alone(costs):
    columns, low, high, simplex = numbers(costs, "columns_for_rows")
    assert (columns, simplex) == pytest.approx((1, 1), abs=1e-6)
    assert 1.1 < low < high


def test_entropy_at_step_zero_is_nan_or_nothing(costs):
    nans, nothing, something = numbers(costs, "entropy_with_step_zero")
    assert nans == 3
    assert nothing == 0 < something


def test_a_prox_without_its_step_misses_the_minimiser(costs):
    missed, found = numbers(costs, "prox_without_step")
    assert missed == pytest.approx(1.9, abs=1e-3)
    assert found < 1e-4


def test_the_page_shows_the_numbers_of_the_script(costs):
    page = (ROOT / "docs" / "seeds.md").read_text(encoding="utf-8")
    assert "python examples/seed_mistakes.py" in page
    assert re.findall("^## (.*)$", page, re.M) == list(costs)
    for label, number in (item for numbers in costs.values() for item in numbers.items()):
        shown = [line.removeprefix(label).strip() for line in page.splitlines() if line.startswith(label + " ")]
        assert len(shown) == 1, label
        if isinstance(number, bool):
            assert shown == [str(number)]
        elif 1e-4 < number < 1e4:  # beyond, rounding and overflow decide
            assert math.isclose(float(shown[0]), number, rel_tol=0.1), label


def test_ratings_with_holes_are_completed_better_than_by_their_mean(capsys):
    scores = load("ratings_pq").main()
    mean, model, small, ours, level, biases = scores.values()
    assert model < 0.6 * mean
    assert small < 0.1
    assert ours < biases < level
    printed = capsys.readouterr().out
    assert "For user 7:" in printed
    assert "as you rated The " in printed
    assert "Casablanca" in printed
    assert "Stopped by the callback" in printed


# ── notebook_costs ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def notebook():
    return load("notebook_costs").main()


def test_every_mistake_of_the_notebook_costs_what_the_page_says(notebook):
    page = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")
    assert re.findall("^## (.*)$", page, re.M)[: len(notebook)] == list(notebook)
    for label, number in (item for numbers in notebook.values() for item in numbers.items()):
        shown = [line.removeprefix(label).strip() for line in page.splitlines() if line.startswith(label + "  ")]
        assert len(shown) == 1, label
        assert math.isclose(float(shown[0]), number, rel_tol=0.1), label


def test_the_mistakes_cost_something(notebook):
    (steps,) = numbers(notebook, "the_fixed_step")
    assert steps < 20
    zeros, mean, rated = numbers(notebook, "zeros_as_ratings")
    assert rated < mean < zeros / 2
    right, wrong = numbers(notebook, "wrong_sign_of_the_regulariser")
    assert right < wrong
    falls, rises = numbers(notebook, "loss_without_squares")
    assert rises > falls / 10
    best, last, train, _ = numbers(notebook, "early_stopping_on_the_training_loss")
    assert train < best < last
    loose_train, _, loose, chosen = numbers(notebook, "no_held_out_data")
    assert loose_train < chosen < loose
    assert numbers(notebook, "the_completed_matrix")[0] > 0.1
    by_rating, by_choice = numbers(notebook, "ratings_for_a_list")
    assert by_choice > 2 * by_rating


# ── pruned_network ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_penalty_prunes_and_the_rival_has_the_same_size():
    whole, rival, ours = (rows[0] for rows in load("pruned_network").main(quick=True).values())
    assert whole["neurons"] == [128, 64]
    assert rival["neurons"] == ours["neurons"] < whole["neurons"]
    assert rival["parameters"] == ours["parameters"] < whole["parameters"]
    assert min(whole["accuracy"], rival["accuracy"], ours["accuracy"]) > 0.9


# ── blended_spectra ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_blend_is_taken_apart_within_the_constraints():
    found = load("blended_spectra").main(quick=True)
    model, errors = found["model"], found["errors"]
    assert 0.8 < found["residual"] < 1.1
    assert max(errors["shift"], errors["width"], errors["continuum"]) < 0.1
    assert errors["response"] < 0.02
    assert (model.continuum.diff() <= 0).all()
    assert (model.amounts >= 0).all()
    assert (model.amounts == 0).any()
