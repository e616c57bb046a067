"""How long the most used operators take, as multiples of one read and write of the tensor (x * 2), beside the peers that install.

    python benchmarks/prox.py [--threads 2] [--only simplex tv] [--shapes 0 1 2]

Sizes: 1,000,000 x 8, 10,000 x 1,000 and 100 x 100,000 in float32, along dim 1. Every figure is the least of several runs of
one process that may use that many cores; ratios are what counts. Peers (jax with jaxopt and optax, proxmin, pyproximal,
tensorly, entmax, spams-bin, prox_tv, scipy, scikit-learn) are timed where they can be imported, on their own arrays, after a
first call that compiles. One that loops over rows is timed on some of them, and the time multiplied ("~").
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module

SHAPES = [(1_000_000, 8), (10_000, 1_000), (100, 100_000)]
LAM = 0.3


@dataclass
class Peer:
    name: str
    run: Callable  # of the array that ``make`` gives
    make: Callable
    rows: int = 0  # more than 0: only so many rows are timed


def least(run, budget=1.5, most=9):
    """The least time of several calls, in seconds."""
    run()
    best, begun = float("inf"), time.perf_counter()
    for _ in range(most):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() - begun > budget:
            break
    return best


def ours():
    """The operators by the text that means them."""
    return {
        "nonneg": "nonneg",
        "box": "box(0, 1)",
        "l1": f"l1({LAM})",
        "l1 + nonneg": f"l1({LAM}) + nonneg",
        "elastic net": f"l1({LAM}) + ridge({LAM})",
        "ridge": f"ridge({LAM})",
        "huber": f"huber({LAM}, 1.0)",
        "l0": f"l0({LAM})",
        "entropy": f"entropy({LAM})",
        "poisson": "poisson(2.0)",
        "simplex": "simplex(dim=1)",
        "simplex, tensor step": "simplex(dim=1)",
        "l1 ball": "l1ball(dim=1)",
        "l2 ball": "l2ball(dim=1)",
        "sum to one": "sum1(dim=1)",
        "group lasso": f"grouplasso(dim=1, lam={LAM})",
        "linf": f"linf(dim=1, lam={LAM})",
        "top-k": "topk(dim=1, k=4)",
        "isotonic": "isotonic(dim=1)",
        "unimodal": "unimodal(dim=1)",
        "tv": f"tv(dim=1, lam={LAM})",
        "smooth": f"smooth(dim=1, lam={LAM})",
    }


def peers(name, x):
    """What others have for it, on their own arrays of the same numbers."""
    import numpy as np

    a = x.numpy()
    numpy = lambda: a.copy()  # noqa: E731

    def jaxed(build):
        def make():
            return import_module("jax.numpy").asarray(a)

        def run(v, cache={}):  # noqa: B006
            if "f" not in cache:
                cache["f"] = import_module("jax").jit(build())
            return cache["f"](v).block_until_ready()

        return run, make

    def jaxopt(module, function, *args, rows=False):
        def build():
            f = getattr(import_module(f"jaxopt.{module}"), function)
            one = lambda v: f(v, *args)  # noqa: E731
            return import_module("jax").vmap(one) if rows else one

        return Peer("jaxopt", *jaxed(build))

    def optax(function, *args):
        def build():
            f = getattr(import_module("optax.projections"), function)
            return import_module("jax").vmap(lambda v: f(v, *args))

        return Peer("optax", *jaxed(build))

    def proxmin(function, **options):
        f = partial(getattr(import_module("proxmin.operators"), function), **options)
        return Peer("proxmin", lambda v: f(v, 1.0), numpy)

    def pyproximal(kind, *args, **options):
        operator = getattr(import_module("pyproximal"), kind)(*args, **options)
        return Peer("pyproximal", lambda v: operator.prox(v.ravel(), 1.0), numpy)

    def by_row(who, f, rows=32):
        return Peer(who, lambda v: [f(row) for row in v], numpy, rows)

    def tensorly(function, *args, rows=32):
        f = getattr(import_module("tensorly.tenalg.proximal"), function)
        return Peer("tensorly", lambda v: f(v.T.copy(), *args), numpy, rows)

    def spams(regul, **options):
        f = import_module("spams").proximalFlat
        return Peer("spams", lambda v: f(v, False, lambda1=LAM, regul=regul, **options), lambda: np.asfortranarray(a.T))

    def sparsemax():
        return Peer("entmax", partial(import_module("entmax").sparsemax, dim=1), lambda: x.clone())

    def prox_tv():
        return by_row("prox_tv", lambda row: import_module("prox_tv").tv1_1d(row, LAM), 100)

    def isotonic(who):
        if who == "scipy":
            return by_row("scipy", import_module("scipy.optimize").isotonic_regression, 100)
        return by_row("sklearn", import_module("sklearn.isotonic").isotonic_regression, 100)

    known = {
        "nonneg": [lambda: jaxopt("projection", "projection_non_negative"), lambda: proxmin("prox_plus")],
        "box": [lambda: jaxopt("projection", "projection_box", (0.0, 1.0)), lambda: pyproximal("Box", 0.0, 1.0)],
        "l1": [
            lambda: jaxopt("prox", "prox_lasso", LAM),
            lambda: proxmin("prox_soft", thresh=LAM),
            lambda: pyproximal("L1", sigma=LAM),
            lambda: spams("l1"),
        ],
        "l1 + nonneg": [
            lambda: jaxopt("prox", "prox_non_negative_lasso", LAM),
            lambda: proxmin("prox_soft_plus", thresh=LAM),
        ],
        "elastic net": [lambda: jaxopt("prox", "prox_elastic_net", (LAM, 1.0)), lambda: spams("elastic-net", lambda2=LAM)],
        "ridge": [lambda: jaxopt("prox", "prox_ridge", LAM), lambda: pyproximal("L2", sigma=LAM), lambda: spams("l2")],
        "huber": [lambda: pyproximal("Huber", alpha=1.0)],
        "l0": [lambda: proxmin("prox_hard", thresh=LAM), lambda: pyproximal("L0", sigma=LAM), lambda: spams("l0")],
        "entropy": [lambda: proxmin("prox_max_entropy", gamma=LAM)],
        "simplex": [
            lambda: jaxopt("projection", "projection_simplex", rows=True),
            lambda: optax("projection_simplex"),
            sparsemax,
            lambda: tensorly("simplex_prox", 1.0, rows=2_000),
        ],
        "l1 ball": [lambda: jaxopt("projection", "projection_l1_ball", 1.0, rows=True), lambda: optax("projection_l1_ball")],
        "l2 ball": [lambda: jaxopt("projection", "projection_l2_ball", 1.0, rows=True), lambda: optax("projection_l2_ball")],
        "group lasso": [lambda: jaxopt("prox", "prox_group_lasso", LAM, rows=True)],
        "linf": [lambda: spams("linf")],
        "isotonic": [lambda: isotonic("scipy"), lambda: isotonic("sklearn"), lambda: tensorly("monotonicity_prox")],
        "unimodal": [lambda: tensorly("unimodality_prox")],
        "tv": [prox_tv, lambda: spams("fused-lasso", lambda2=0.0, lambda3=0.0)],
        "smooth": [lambda: tensorly("smoothness_prox", LAM)],
    }
    for build in known.get(name, []):
        try:
            yield build()
        except (ImportError, AttributeError, TypeError) as error:
            print(f"    (a peer of {name} is left out: {error})")


def timed(peer, shape):
    """Seconds for the whole tensor, and whether they were scaled up."""
    data = peer.make()
    rows = min(peer.rows, shape[0]) if peer.rows else shape[0]
    if peer.rows:
        data = data[:rows]
    return least(lambda: peer.run(data), 1.0, 5) * shape[0] / rows, rows < shape[0]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--only", nargs="*", default=[])
    options.add_argument("--shapes", nargs="*", type=int, default=range(len(SHAPES)))
    options = options.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    import torch

    import proxfactor as pf

    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, {options.threads} threads, float32; ms, and the ratio to x * 2")
    for shape in (SHAPES[i] for i in options.shapes):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        copy = least(lambda x=x: x * 2)
        print(f"\n{shape[0]} x {shape[1]}: x * 2 takes {1e3 * copy:.1f} ms")
        print(f"  {'operator':<22}{'ms':>9}{'ratio':>8}   the peers, fastest first: ratio to ours")
        for name, text in ours().items():
            if options.only and name not in options.only:
                continue
            p = pf.as_prox(text)
            step = 0.5 + torch.rand(shape, generator=torch.Generator().manual_seed(1)) if "tensor" in name else 1.0
            mine = least(lambda p=p, x=x, step=step: p(x, step))
            found = []
            for peer in peers(name, x):
                try:
                    seconds, scaled = timed(peer, shape)
                    found.append((seconds, f"{peer.name} {'~' if scaled else ''}{seconds / mine:.1f}"))
                except Exception as error:
                    found.append((float("inf"), f"{peer.name} fails ({type(error).__name__})"))
            print(f"  {name:<22}{1e3 * mine:>9.1f}{mine / copy:>8.1f}   {', '.join(text for _, text in sorted(found))}", flush=True)


if __name__ == "__main__":
    main()
