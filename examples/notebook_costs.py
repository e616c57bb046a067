"""What the mistakes of a notebook that factors ratings cost, one function for each; the numbers are in docs/production.md.

The table is generated (`datasets.films`): 600 users, 400 films, a tenth of the ratings held out.

python examples/notebook_costs.py
"""

import math
from functools import cache

import numpy as np

from proxfactor import Bias, ExplicitMF, ImplicitMF, datasets, evaluate, split

NAMED = {"user": "user", "item": "film", "rating": "rating"}
TABLE, _ = datasets.films()
TRAIN, TEST = split(TABLE, "random", 0.1, **NAMED)
EPOCHS, RATE, BETA, RANK = 400, 1e-3, 0.02, 8


def cells(table):
    """Users, films (both from 0) and ratings."""
    return table["user"].to_numpy() - 1, table["film"].to_numpy() - 1, table["rating"].to_numpy()


def wide(table):
    """The notebook's matrix: 0 where there is no rating."""
    R = np.zeros((600, 400))
    user, film, rating = cells(table)
    R[user, film] = rating
    return R


def rmse(completed, table):
    user, film, rating = cells(table)
    return math.sqrt(np.mean((completed[user, film] - rating) ** 2))


def descend(R, masked=True, sign=1.0, rate=RATE, beta=BETA, epochs=EPOCHS, watch=None):
    """The notebook's loop, for ratings less their mean where ``masked``: P and Q after the epochs, or when one is not finite."""
    r = np.random.default_rng(0)
    P, Q = (r.standard_normal((n, RANK)) * (0.1 if masked else 1.0) for n in R.shape)
    there = R != 0 if masked else np.ones(R.shape, bool)
    target = R - R[R != 0].mean() if masked else R
    for epoch in range(epochs):
        with np.errstate(all="ignore"):
            E = np.where(there, P @ Q.T - target, 0.0)
            if watch is not None and watch(epoch, E, P, Q):
                break
            P, Q = P - rate * (2 * E @ Q + sign * beta * P), Q - rate * (2 * E.T @ P + sign * beta * Q)
        if not (np.isfinite(P).all() and np.isfinite(Q).all()):
            break
    return P, Q


@cache
def chosen():
    """What does it right; λ is chosen on ratings hidden from the fit."""
    return ExplicitMF(rank=RANK).fit(TRAIN, **NAMED)


def the_fixed_step():
    """The learning rate is 0.01, which suited 5 x 4 cells."""
    seen = []
    descend(wide(TRAIN), masked=False, rate=0.01, watch=lambda epoch, *_: seen.append(epoch))
    return {"epochs until P is no finite number, 600 x 400, rate 0.01": len(seen)}


def zeros_as_ratings():
    """A cell without a rating is fitted as a rating of zero."""
    R = wide(TRAIN)
    mean = R[R != 0].mean()
    P, Q = descend(R, masked=False)
    P2, Q2 = descend(R, epochs=200)
    return {
        "held-out RMSE, zeros fitted": rmse(P @ Q.T, TEST),
        "held-out RMSE, the mean of the ratings": rmse(np.full(R.shape, mean), TEST),
        "held-out RMSE, only ratings fitted, 200 epochs": rmse(P2 @ Q2.T + mean, TEST),
    }


def wrong_sign_of_the_regulariser():
    """The step adds the gradient of the penalty instead of subtracting it."""
    R = wide(TRAIN)
    mean = R[R != 0].mean()
    right, wrong = (descend(R, sign=sign, beta=2.0) for sign in (1.0, -1.0))
    return {
        "held-out RMSE, the right sign, β = 2": rmse(right[0] @ right[1].T + mean, TEST),
        "held-out RMSE, the notebook's sign, β = 2": rmse(wrong[0] @ wrong[1].T + mean, TEST),
    }


def loss_without_squares():
    """The value that is watched is ½‖E‖ + β/2 ‖P‖ + ‖Q‖, norms without squares and Q without β/2; the steps go down another."""
    values = []

    def watch(_, E, P, Q):
        values.append((np.linalg.norm(E) / 2 + BETA / 2 * np.linalg.norm(P) + np.linalg.norm(Q), np.sum(E**2) / 2))

    descend(wide(TRAIN), watch=watch, epochs=200)
    told, true = np.array(values).T
    rising = (np.diff(told) > 0) & (np.diff(true) < 0)
    return {
        "epochs of 200 in which the squared error falls": int(np.sum(np.diff(true) < 0)),
        "of these, epochs in which the notebook's value rises": int(rising.sum()),
    }


def early_stopping_on_the_training_loss():
    """It stops when the loss on what it learns from falls no more, which says nothing about ratings to come."""
    R = wide(TRAIN)
    mean, held = R[R != 0].mean(), []
    P, Q = descend(R, watch=lambda _, E, P, Q: held.append(rmse(P @ Q.T + mean, TEST)), epochs=1000)
    return {
        "held-out RMSE, the best epoch": min(held),
        "held-out RMSE, the last of 1,000 epochs": rmse(P @ Q.T + mean, TEST),
        "RMSE on the ratings learned from, the last epoch": rmse(P @ Q.T + mean, TRAIN),
        "the best epoch": int(np.argmin(held)),
    }


def no_biases():
    """Nothing says that some users are strict and some films are good; the factors have to."""
    plain = ExplicitMF(rank=RANK, biases=False).fit(TRAIN, **NAMED)
    only = Bias().fit(TRAIN, **NAMED)
    return {
        "held-out RMSE, factors without biases": evaluate(plain, TEST)["rmse"],
        "held-out RMSE, biases without factors": evaluate(only, TEST)["rmse"],
        "held-out RMSE, both": evaluate(chosen(), TEST)["rmse"],
    }


def no_held_out_data():
    """The only number that is looked at is the loss on the ratings that were learned from."""
    loose = ExplicitMF(rank=RANK, reg=0.01).fit(TRAIN, **NAMED)
    return {
        "RMSE on the ratings learned from, reg = 0.01": evaluate(loose, TRAIN)["rmse"],
        "RMSE on the ratings learned from, reg chosen": evaluate(chosen(), TRAIN)["rmse"],
        "held-out RMSE, reg = 0.01": evaluate(loose, TEST)["rmse"],
        "held-out RMSE, reg chosen": evaluate(chosen(), TEST)["rmse"],
    }


def a_dense_matrix():
    """Every cell is stored and multiplied, rated or not."""
    return {
        "share of the cells that are ratings, here": len(TABLE) / (600 * 400),
        "GB for R, E and their product, 138,000 x 27,000 in float32": 3 * 4 * 138e3 * 27e3 / 1e9,
        "GB for its 20 million ratings, by user and by item": 2 * 20e6 * (4 + 4) / 1e9,
    }


def the_completed_matrix():
    """P Qᵀ is returned; which films a user has seen, and what to show, is left to the reader."""
    best = chosen().recommend(n=10, exclude_seen=False)
    seen = set(zip(*(TRAIN[name].to_pylist() for name in ("user", "film")), strict=True))
    pairs = list(zip(*(best[name].to_pylist() for name in ("user", "film")), strict=True))
    share = float(np.mean([pair in seen for pair in pairs]))
    return {"share of the ten best of the completed matrix that the user has seen": share}


def ratings_for_a_list():
    """Films are ranked by the rating that they would get, which forgets that most would never be picked."""
    train, test = split(TABLE, "per-user", 0.2, **NAMED)
    fits = ExplicitMF(rank=RANK, reg=chosen().found_["reg"]), ImplicitMF(rank=RANK, reg=0.02, unobserved=0.1)
    by_rating, by_choice = (evaluate(model.fit(train, **NAMED), test, measures="ndcg@10")["ndcg@10"] for model in fits)
    return {"NDCG@10, ranked by predicted ratings": by_rating, "NDCG@10, ranked by what is picked": by_choice}


MISTAKES = [
    the_fixed_step,
    zeros_as_ratings,
    wrong_sign_of_the_regulariser,
    loss_without_squares,
    early_stopping_on_the_training_loss,
    no_biases,
    no_held_out_data,
    a_dense_matrix,
    the_completed_matrix,
    ratings_for_a_list,
]


def main():
    costs = {mistake.__name__: mistake() for mistake in MISTAKES}
    for mistake in MISTAKES:
        print(f"## {mistake.__name__}\n\n{mistake.__doc__}\n")
        for label, number in costs[mistake.__name__].items():
            print(f"{label:<73} {number:.4g}")
        print()
    return costs


if __name__ == "__main__":
    main()
