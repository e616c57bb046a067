"""Who is measured. A system that predicts ratings is ``run(train, test, setting, seed)`` and says what it predicts for the
test cells; one that ranks, ``run(train, setting, seed)``, gives scores (m, n); one that sweeps, ``run(X, k, threads, sweeps,
see)``, calls ``see`` after each sweep, with a function that gives the factors of users and items, if there is one; one that
lists, ``run(X, users, items, threads)``, gives what answers a user or, to None, everybody. Where there are several settings,
the best on a part of the training set is taken.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from data import Cells
from scipy.sparse import csr_matrix, diags, hstack, identity

PEERS = ("setuptools<81", "implicit==0.7.3", "scikit-surprise==1.1.5", "myfm==0.4.0", "libmf==0.9.2", "cmfrec==3.5.1.post14")
ALPHA, REG = 10.0, 0.01  # of implicit's objective


@dataclass(frozen=True)
class System:
    name: str
    run: Callable[..., Any]
    module: str = "proxfactor"
    package: str = "proxfactor"
    settings: tuple[Any, ...] = ({},)

    @property
    def there(self) -> bool:
        return importlib.util.find_spec(self.module) is not None


# ── ratings ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def explicit(train: Cells, test: Cells, setting: dict, seed: int) -> np.ndarray:
    from proxfactor.ratings.mf import ExplicitMF

    model = ExplicitMF(seed=seed, **setting).fit((train.user, train.item, train.value))
    return model.predict(test.user, test.item, unknown="fallback")


def bayesian(train: Cells, test: Cells, setting: dict, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard deviation), not clipped."""
    from dataclasses import replace

    from proxfactor.ratings.bayes import BayesianMF

    model = BayesianMF(seed=seed, **setting).fit((train.user, train.item, train.value))
    return replace(model.model_, low=None, high=None).predict(test.user, test.item, return_std=True, unknown="fallback")


def libmf(train: Cells, test: Cells, setting: dict, seed: int) -> np.ndarray:
    """By its factors: the predict of this binding has nothing to do with the data. LIBMF fits no mean; b is for unknown ids."""
    from libmf import mf

    ridge = {"lambda_p1": 0.0, "lambda_q1": 0.0, "lambda_p2": setting["reg"], "lambda_q2": setting["reg"]}
    model = mf.MF(nr_threads=1, quiet=True, k=setting["k"], nr_iters=setting["epochs"], eta=setting["eta"], **ridge)
    model.fit(np.column_stack([train.user, train.item, train.value]))
    P, Q = (np.full((size, setting["k"]), np.nan) for size in train.shape)
    for F, found in ((P, model.p_factors()), (Q, model.q_factors())):
        F[: len(found)] = found
    predicted = (P[test.user] * Q[test.item]).sum(1)
    return np.where(np.isnan(predicted), model.model.b, predicted)


def surprise(train: Cells, test: Cells, setting: dict, seed: int) -> np.ndarray:
    import pandas as pd
    import surprise as s

    frame = pd.DataFrame({"user": train.user, "item": train.item, "rating": train.value})
    full = s.Dataset.load_from_df(frame, s.Reader(rating_scale=(1, 5))).build_full_trainset()
    model = s.SVD(random_state=seed, **setting).fit(full)
    return np.array([model.predict(u, i).est for u, i in zip(test.user, test.item, strict=True)])


def cmfrec(train: Cells, test: Cells, setting: dict, seed: int) -> np.ndarray:
    from cmfrec import CMF

    model = CMF(nthreads=1, random_state=seed + 1, verbose=False, **setting).fit(train.csr().tocoo())
    predicted = model.predict(test.user, test.item)
    return np.where(np.isfinite(predicted), predicted, train.value.mean())


def one_hot(cells: Cells) -> csr_matrix:
    sides = zip((cells.user, cells.item), cells.shape, strict=True)
    return hstack([identity(size, format="csr")[codes] for codes, size in sides], format="csr")


def myfm(train: Cells, test: Cells, setting: dict, seed: int) -> np.ndarray:
    from myfm import MyFMRegressor

    model, n = MyFMRegressor(rank=setting["rank"], random_seed=seed), setting["sweeps"]
    model.fit(one_hot(train), train.value, n_iter=n, n_kept_samples=n - 10, group_shapes=list(train.shape), callback=silent)
    return model.predict(one_hot(test))


def myfm_of_whom(train: Cells, test: Cells, setting: dict, seed: int) -> np.ndarray:
    """myFM told what it cannot see for itself: what each user rated, and who rated each item ("SVD++, flipped")."""
    from myfm import MyFMRegressor, RelationBlock

    X, (m, n), blocks = train.csr().sign(), train.shape, []
    for rated in (X, X.T.tocsr()):
        scale = diags(np.maximum(np.diff(rated.indptr), 1.0) ** -0.5)
        blocks.append(hstack([identity(rated.shape[0]), scale @ rated], format="csr").astype(np.float64))
    known = lambda cells: [RelationBlock(*each) for each in zip((cells.user, cells.item), blocks, strict=True)]  # noqa: E731
    model, count = MyFMRegressor(rank=setting["rank"], random_seed=seed), setting["sweeps"]
    options = {"n_iter": count, "n_kept_samples": count - 10, "group_shapes": [m, n, n, m], "callback": silent}
    model.fit(None, train.value, X_rel=known(train), **options)
    return model.predict(None, known(test))


def silent(*progress: Any) -> tuple[bool, None]:
    return False, None


def grid(**options: tuple[Any, ...]) -> tuple[dict[str, Any], ...]:
    return tuple(dict(zip(options, values, strict=True)) for values in product(*options.values()))


RATING = (
    System("ExplicitMF", explicit),
    System("BayesianMF", bayesian),
    System("LIBMF", libmf, "libmf", "libmf", (
        {"k": 64, "reg": 0.1, "eta": 0.05, "epochs": 60}, {"k": 32, "reg": 0.1, "eta": 0.05, "epochs": 60},
        {"k": 128, "reg": 0.1, "eta": 0.05, "epochs": 100}, {"k": 64, "reg": 0.12, "eta": 0.05, "epochs": 60},
    )),
    System("Surprise", surprise, "surprise", "scikit-surprise", (
        {"n_factors": 50, "n_epochs": 60, "lr_all": 0.007, "reg_all": 0.07},
        *grid(n_factors=(100,), n_epochs=(60,), lr_all=(0.007,), reg_all=(0.1, 0.13)),
    )),
    System("cmfrec", cmfrec, "cmfrec", "cmfrec", (
        {}, *grid(scale_lam=(True,), lambda_=(0.07, 0.1, 0.14), add_implicit_features=(True,), use_cg=(False,)),
    )),
    System("myFM", myfm, "myfm", "myfm", grid(rank=(8, 32), sweeps=(200,))),
    System("myFM SVD++", myfm_of_whom, "myfm", "myfm", grid(rank=(32,), sweeps=(200,))),
)  # fmt: skip


# ── ranking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def clicks(train: Cells, setting: dict, seed: int) -> np.ndarray:
    from proxfactor.ratings.mf import ImplicitMF

    model = ImplicitMF(seed=seed, **setting).fit(train.csr())
    users, items = (np.arange(size) for size in train.shape)
    return np.stack([model.predict(np.full(len(items), u), items, unknown="fallback") for u in users])


def implicit(train: Cells, setting: dict, seed: int) -> np.ndarray:
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(num_threads=1, random_state=seed, **setting)
    model.fit(train.csr(), show_progress=False)
    return model.user_factors @ model.item_factors.T


def ease(train: Cells, setting: dict, seed: int) -> np.ndarray:
    """EASE as its paper writes it (Steck 2019): B = I - P / diag(P), P = (XᵀX + λ I)⁻¹."""
    X = train.csr().astype(np.float64)
    P = np.linalg.inv((X.T @ X).toarray() + setting["reg"] * np.eye(X.shape[1]))
    return X @ (np.eye(len(P)) - P / np.diag(P))


TUNED = grid(factors=(16, 32, 64, 128), alpha=(1.0, 3.0, 10.0, 30.0), regularization=(0.01, 1.0, 10.0, 30.0, 100.0))
RANKING = (
    System("ImplicitMF", clicks),
    System("implicit", implicit, "implicit", "implicit"),
    System("implicit tuned", implicit, "implicit", "implicit", TUNED),
    System("EASE", ease, "numpy", "numpy", grid(reg=(10.0, 30.0, 100.0, 300.0, 1000.0))),
)


# ── sweeps ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def our_sweeps(X: csr_matrix, k: int, threads: int, sweeps: int, see: Callable, **options: Any) -> None:
    """ImplicitMF at implicit's own objective: w = c = α r, t = 1, a0 = 1, ν = 0."""
    import pyarrow as pa

    from proxfactor.ratings.mf import ImplicitMF

    def look(row: dict[str, Any]) -> None:
        see(lambda: factors(row["model"]()))

    def factors(model: Any) -> Iterator[np.ndarray]:
        """Those of everybody, in the order of the table: who has no cell is not in the model."""
        for F, ids, size in zip((model.X, model.Y), (model.users, model.items), X.shape, strict=True):
            every = np.zeros((size, k), np.float32)
            every[ids] = F
            yield every

    model = ImplicitMF(rank=k, reg=REG, nu=0.0, unobserved=1.0, max_iter=sweeps, tol=0.0, **options)
    cells = X.tocoo()
    ones = np.ones(X.nnz, np.float32)
    clicks = pa.table({"user": cells.row, "item": cells.col, "click": ones, "weight": ALPHA * cells.data})
    model.fit(clicks, rating="click", weight="weight", callback=look)


def implicit_sweeps(X: csr_matrix, k: int, threads: int, sweeps: int, see: Callable) -> None:
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        factors=k, alpha=ALPHA, regularization=REG, iterations=sweeps, num_threads=threads, random_state=0
    )
    look = lambda *progress: see(lambda: (model.user_factors, model.item_factors))  # noqa: E731
    model.fit(X, show_progress=False, callback=look)


def our_draws(X: csr_matrix, k: int, threads: int, sweeps: int, see: Callable) -> None:
    from proxfactor.ratings.bayes import BayesianMF

    cells, count = X.tocoo(), 0

    def look(row: dict[str, Any]) -> bool:
        nonlocal count
        see()
        count += 1
        return count >= sweeps

    BayesianMF(rank=k).fit((cells.row, cells.col, cells.data), callback=look)


def myfm_draws(X: csr_matrix, k: int, threads: int, sweeps: int, see: Callable) -> None:
    from myfm import MyFMRegressor

    def look(*progress: Any) -> tuple[bool, None]:
        see()
        return False, None

    cells = X.tocoo()
    table = one_hot(Cells(cells.row, cells.col, cells.data, X.shape))
    MyFMRegressor(rank=k).fit(table, cells.data, n_iter=sweeps, group_shapes=list(X.shape), callback=look)


SWEEPS = (
    System("ImplicitMF", our_sweeps),
    System("ImplicitMF exact", partial(our_sweeps, steps=None)),
    System("implicit", implicit_sweeps, "implicit", "implicit"),
    System("BayesianMF", our_draws),
    System("myFM", myfm_draws, "myfm", "myfm"),
)


# ── lists ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def our_lists(X: csr_matrix, users: np.ndarray, items: np.ndarray, threads: int) -> Callable[[Any], Any]:
    from proxfactor.serve import Model

    ids = (np.arange(size) for size in X.shape)
    model = Model(*ids, X=users, Y=items, indptr=X.indptr, indices=X.indices, values=X.data)
    return lambda who: model.recommend(who, 10)


def implicit_lists(X: csr_matrix, users: np.ndarray, items: np.ndarray, threads: int) -> Callable[[Any], Any]:
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(factors=users.shape[1], num_threads=threads)
    model.user_factors, model.item_factors = users, items
    everybody = np.arange(X.shape[0])
    return lambda who: model.recommend(everybody, X, 10) if who is None else model.recommend(who, X[who], 10)


LISTS = (System("Model", our_lists), System("implicit", implicit_lists, "implicit", "implicit"))
