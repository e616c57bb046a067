"""Who is measured, and where each one can be watched: after every outer iteration it shows W (m, k) and H (k, n).

A system is ``run(data, X, start, see)``: X in the caller's dtype, a start (W, H) or None for the library's own. It calls
``see.first(W, H)`` with the start where that is its own, ``see(W, H)`` after each iteration, and never stops by itself:
``see`` ends it. Rules that would stop a library are off.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import scipy.sparse as sp

PEERS = ("nmf-torch==0.1.1", "torchnmf==0.3.5", "proxmin==0.6.12", "tensorly==0.10.0", "nonnegfac")  # nonnegfac: never on PyPI
FOREVER = 10**7


@dataclass(frozen=True)
class System:
    name: str
    run: Callable[..., Any]
    package: str
    module: str
    losses: tuple[str, ...] = ("frobenius",)
    simplex: bool = False
    passes: int | None = 2  # products with X of an iteration, where the run does not count them itself
    default: bool = True  # its own start is worth a run

    @property
    def there(self) -> bool:
        return importlib.util.find_spec(self.module.split(".")[0]) is not None

    @property
    def version(self) -> str:
        try:
            return version(self.package)
        except PackageNotFoundError:
            return "?"

    def takes(self, loss: str, simplex: bool) -> bool:
        return loss in self.losses and (self.simplex or not simplex)


@contextlib.contextmanager
def patched(owner: Any, **new: Any) -> Iterator[None]:
    before = {name: getattr(owner, name) for name in new}
    for name, value in new.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def as_tensor(X: Any, coo: bool = False) -> Any:
    """X as a torch tensor without a copy; sparse as CSR, or as COO, for those that take no other."""
    import torch

    if not sp.issparse(X):
        return torch.as_tensor(X)
    csr = torch.sparse_csr_tensor(*map(torch.as_tensor, (X.indptr, X.indices, X.data)), X.shape)
    return csr.to_sparse_coo().coalesce() if coo else csr


# ── ours ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def constraints(data: Any) -> dict[str, str]:
    return {"W": "nonneg", "H": "simplex(dim=0)" if data.simplex else "nonneg"}


def proxfactor(data, X, start, see, solver="auto"):
    from proxfactor import factorize

    if start is None:
        see.first(*own_start(data, X))
    looks = 0

    def look(progress):
        nonlocal looks
        looks += 1
        at = int(progress.row["iteration"])
        passes = progress.row.get("passes", 2 * at + 2 * looks)  # where the fit does not count: two for a certificate
        see(progress.W, progress.H, iteration=at, passes=int(passes))

    factorize(
        X, data.rank, **constraints(data), loss=data.loss, solver=solver, init="auto" if start is None else start,
        tol=1e-12, max_iter=FOREVER, callback=look,
    )  # fmt: skip


def own_start(data, X):
    from proxfactor import Problem
    from proxfactor.inits import start

    problem = Problem(X, data.loss, *constraints(data).values())
    return start(problem, data.rank, "auto", 0)


def proxfactor_sweeps(data, X, start, see, solver="auto"):
    """Bare sweeps of the solver that factorize would take: what one costs."""
    import torch

    from proxfactor import Problem
    from proxfactor.solvers import as_solver

    with torch.no_grad():
        problem = Problem(X, data.loss, *constraints(data).values())
        how = as_solver(solver, problem)
        state = how.init(problem, *(torch.as_tensor(F).to(problem.X.entries()) for F in start))
        while True:
            state = how.step(problem, state)
            see(state.W, state.H)


def wait_for_all_kernels() -> None:
    """Until every kernel of a solver or a loss is there, in both dtypes, whether the first call asked for it or not.

    A float64 fit begins in float32, and a loss is summed in float64 whatever the data are.
    """
    from itertools import product
    from pkgutil import iter_modules

    import torch

    from proxfactor import losses, solvers
    from proxfactor.compiled import wait_for_kernels

    found = [f"{p.__name__.split('.')[-1]}.{m.name}" for p in (solvers, losses) for m in iter_modules(p.__path__)]
    for name, dtype in product(found, (torch.float32, torch.float64)):
        if name.endswith("_numba"):
            with contextlib.suppress(AttributeError):  # it is not one that is fetched beside the work
                wait_for_kernels(name, dtype)


# ── peers ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def scikit_learn(data, X, start, see, solver="cd"):
    from sklearn.decomposition import NMF, _nmf

    fit, update = ("_fit_coordinate_descent", "_update_coordinate_descent") if solver == "cd" else (
        "_fit_multiplicative_update", "_multiplicative_update_h")  # fmt: skip
    begin, half, halves = getattr(_nmf, fit), getattr(_nmf, update), 0

    def begun(X, W, H, *args, **options):
        if start is None:
            see.first(W, H)
        return begin(X, W, H, *args, **options)

    def coordinate(X, W, Ht, *args, **options):
        nonlocal halves
        out = half(X, W, Ht, *args, **options)
        halves += 1
        if halves % 2 == 0:  # the second half-step has H in the place of W
            see(Ht, W.T)
        return out

    def multiplicative(X, W, H, *args, **options):
        out = half(X, W, H, *args, **options)
        see(W, out)
        return out

    beta = {"frobenius": "frobenius", "kl": "kullback-leibler"}[data.loss]
    model = NMF(data.rank, init=None if start is None else "custom", solver=solver, beta_loss=beta, tol=0, max_iter=FOREVER)
    given = {} if start is None else dict(zip("WH", (F.copy() for F in start), strict=True))
    with patched(_nmf, **{fit: begun, update: coordinate if solver == "cd" else multiplicative}):
        model.fit_transform(X, **given)


def nmf_torch(data, X, start, see, algo="halsvar"):
    """Its H is our W."""
    import torch
    from nmf import run_nmf
    from nmf.nmf_models._nmf_base import NMFBase
    from nmf.nmf_models._nmf_batch_hals import NMFBatchHALS
    from nmf.nmf_models._nmf_batch_mu import NMFBatchMU
    from nmf.nmf_models._nmf_batch_nnls_bpp import NMFBatchNnlsBpp

    kind = {"mu": NMFBatchMU, "bpp": NMFBatchNnlsBpp}.get(algo, NMFBatchHALS)
    update, draw = kind._update_W, NMFBase._initialize_H_W

    def updated(self):
        update(self)
        see(self.H, self.W)

    def initialized(self, *args):
        if start is None:
            draw(self, *args)
            see.first(self.H, self.W)
        else:
            self.H, self.W = (torch.tensor(F) for F in start)

    loss = {"frobenius": "frobenius", "kl": "kullback-leibler"}[data.loss]
    precision = "float" if X.dtype == np.float32 else "double"
    tensor = as_tensor(X)
    with (
        patched(kind, _update_W=updated),
        patched(NMFBase, _initialize_H_W=initialized, _is_converged=lambda *losses: False),
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),  # it prints its loss
    ):
        run_nmf(tensor, data.rank, beta_loss=loss, algo=algo, fp_precision=precision, batch_max_iter=FOREVER)


def torchnmf(data, X, start, see):
    """V ≈ H Wᵀ: its H is our W, its W our Hᵀ."""
    import torch
    from torchnmf import nmf

    V, halves = as_tensor(X, coo=True), 0
    torch.manual_seed(0)
    torch.set_default_dtype(V.dtype)
    given = {} if start is None else {"H": torch.tensor(start[0]), "W": torch.tensor(start[1].T)}
    model = nmf.NMF(V.shape, data.rank) if start is None else nmf.NMF(**given)
    if start is None:
        see.first(model.H, model.W.T)

    def after(update):
        def updated(*args, **options):
            nonlocal halves
            update(*args, **options)
            halves += 1
            if halves % 2 == 0:
                see(model.H, model.W.T)

        return updated

    names = ("_double_backward_update", "_sp_double_backward_update")
    with patched(nmf, **{name: after(getattr(nmf, name)) for name in names}):
        model.fit(V, beta={"frobenius": 2, "kl": 1}[data.loss], tol=-np.inf, max_iter=FOREVER)


def proxmin(data, X, start, see, algorithm="pgm"):
    from proxmin import algorithms, operators
    from proxmin.nmf import nmf

    W, H = (F.copy() for F in start)

    def look(*factors, it):
        if it:
            see(*factors)

    weight = {}
    if data.missing:
        weight, X = {"W": ~np.isnan(X)}, np.nan_to_num(X)
    prox_H = partial(operators.prox_unity_plus, axis=0) if data.simplex else operators.prox_plus
    how = getattr(algorithms, algorithm)
    nmf(X, W, H, prox_S=prox_H, algorithm=how, e_rel=0, max_iter=FOREVER, callback=look, **weight)


def tensorly(data, X, start, see):
    from tensorly.cp_tensor import CPTensor
    from tensorly.decomposition import _nn_cp

    begin, solve, first = _nn_cp.initialize_cp, _nn_cp.hals_nnls, None

    def begun(*args, **options):
        made = begin(*args, **options)
        if start is None:
            see.first(made[1][0], made[1][1].T)
        return made

    def solved(*args, **options):
        nonlocal first
        out = solve(*args, **options)
        if first is None:
            first = out
        else:
            see(first.T, out)
            first = None
        return out

    given = "svd" if start is None else CPTensor((np.ones(data.rank, X.dtype), [start[0].copy(), start[1].T.copy()]))
    with patched(_nn_cp, initialize_cp=begun, hals_nnls=solved):
        _nn_cp.non_negative_parafac_hals(X, data.rank, n_iter_max=FOREVER, init=given, tol=0)


BOTH = ("frobenius", "kl")
PROXMIN: dict[str, Any] = {"simplex": True, "passes": None, "default": False}
SYSTEMS = (
    System("proxfactor", proxfactor, "proxfactor", "proxfactor", BOTH, simplex=True),
    System("scikit-learn-cd", scikit_learn, "scikit-learn", "sklearn.decomposition"),
    System("scikit-learn-mu", partial(scikit_learn, solver="mu"), "scikit-learn", "sklearn.decomposition", BOTH),
    System("nmf-torch", nmf_torch, "nmf-torch", "nmf"),  # its default algorithm, "halsvar"
    System("nmf-torch-hals", partial(nmf_torch, algo="hals"), "nmf-torch", "nmf"),
    System("nmf-torch-bpp", partial(nmf_torch, algo="bpp"), "nmf-torch", "nmf"),
    System("nmf-torch-mu", partial(nmf_torch, algo="mu"), "nmf-torch", "nmf", BOTH),
    System("torchnmf", torchnmf, "torchnmf", "torchnmf", BOTH, passes=None),
    System("proxmin-pgm", proxmin, "proxmin", "proxmin.nmf", **PROXMIN),
    System("proxmin-adaprox", partial(proxmin, algorithm="adaprox"), "proxmin", "proxmin.nmf", **PROXMIN),
    System("tensorly-hals", tensorly, "tensorly", "tensorly.decomposition"),
)


def system(name: str) -> System:
    """The system of that name; "proxfactor:hals(inner=1)" is ours with that solver."""
    if name.startswith("proxfactor:"):
        ours = SYSTEMS[0]
        return System(name, partial(proxfactor, solver=name.split(":", 1)[1]), ours.package, ours.module, BOTH, simplex=True)
    return next(s for s in SYSTEMS if s.name == name)
