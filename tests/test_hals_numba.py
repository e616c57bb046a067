"""The compiled passes of HALS beside their torch twin, and how compiled kernels arrive."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.sparse import random_array

from proxfactor import Box, Columns, L2Squared, Observed, Problem, Sparse, as_prox
from proxfactor.compiled import wait_for_kernels
from proxfactor.problem import Quadratic
from proxfactor.solvers import HALS, Alternating
from proxfactor.solvers.hals import elastic_passes

INF = float("inf")


def case(m, n, k, dtype, seed=0):
    g = torch.Generator().manual_seed(seed)
    B = torch.rand(n, k, generator=g, dtype=torch.float64)
    C, A = torch.randn(m, k, generator=g, dtype=torch.float64) * n, torch.rand(m, k, generator=g, dtype=torch.float64)
    return A.to(dtype), C.to(dtype), (B.mT @ B).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (64, 20, 4), (65, 20, 5), (200, 30, 13)], ids=str)
@pytest.mark.parametrize("prox", ["nonneg", "free", "box(0, 1) + ridge(2)", "l1(0.3)", "nonneg + l1(0.5)", "nonpos"])
@pytest.mark.parametrize("inner", [1, 4])
def test_the_kernel_is_its_torch_twin(dtype, shape, prox, inner):
    A, C, G = case(*shape, dtype)
    elastic = as_prox(prox).elastic
    ours = wait_for_kernels("solvers._hals_numba", dtype).passes(A, C, G, elastic, inner)
    twin = elastic_passes(A, C, G, elastic, inner)
    size = twin.abs().max().item() + 1
    torch.testing.assert_close(ours, twin, rtol=0, atol=size * (1e-3 if dtype == torch.float32 else 1e-10))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("prox", ["nonneg", "free", "nonneg + l1(0.5)", "box(-0.2, 0.7)"])
@pytest.mark.parametrize("kind", ["holes", "weights", "clicks"])
def test_passes_over_stored_cells_are_those_with_a_gram_matrix_for_each_row(dtype, prox, kind):
    m, n, k = 40, 30, 6
    rng = np.random.default_rng(0)
    X = random_array((m, n), density=0.3, rng=rng, format="lil")
    X[5] = 0  # nobody knows anything of this row
    X = X.tocsr()
    weight = None if kind == "holes" else X * 0.0
    if weight is not None:
        weight.data = rng.uniform(0.0, 3.0, len(weight.data))
    cells = (Sparse(X, weight, background=0.2) if kind == "clicks" else Observed(X, weight)).to(dtype=dtype)
    ridge = L2Squared(torch.linspace(0.1, 2.0, m)[:, None])
    draw = torch.Generator().manual_seed(1)
    A, B = (torch.rand(size, k, generator=draw, dtype=dtype) - 0.3 for size in (m, n))
    for term in (as_prox(prox) + ridge, Columns({0: ridge}, rest=as_prox(prox) + ridge)):
        problem = Problem(cells, "frobenius", term)
        near = wait_for_kernels("solvers._hals_numba", dtype).near(problem, A, B, 3)
        rows = Alternating.half(HALS(inner=3), problem, A, B, {})
        torch.testing.assert_close(near, rows, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-11)
        torch.testing.assert_close(HALS(inner=3).half(problem, A, B, {}), near, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("prox", ["nonneg", "free", "box(0, 1) + ridge(2)", "l1(0.3)"])
def test_rows_with_a_gram_matrix_each_go_where_the_torch_form_goes(dtype, prox):
    A, C, _ = case(30, 20, 5, dtype)
    B = torch.rand(30, 9, 5, generator=torch.Generator().manual_seed(1), dtype=dtype)
    B[3], C[3] = 0, 0  # a row without data
    G, op = B.mT @ B, as_prox(prox)
    known = op + as_prox("box(-1e6, 1e6)")
    as_tensors = Box(torch.full((30, 5), -1e6, dtype=dtype), torch.full((30, 5), 1e6, dtype=dtype)) + op
    ours = HALS(inner=4).rows(known, Quadratic(G, C), A, {})
    torch_form = HALS(inner=4).rows(as_tensors, Quadratic(G, C), A, {})
    torch.testing.assert_close(ours, torch_form, rtol=0, atol=1e-3 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("prox", ["nonneg", "free", "box(0.5, 1)", "nonneg + l1(0.5)", "box(0.5, 2) + ridge(1)"])
@pytest.mark.parametrize("dead", ["one component", "all"])
def test_kernel_twin_and_the_general_passes_agree_where_there_is_no_curvature(prox, dead):
    A, C, G = case(10, 8, 3, torch.float64)
    which = slice(1, 2) if dead == "one component" else slice(None)
    G[which], G[:, which], C[:, which] = 0, 0, 0
    op = as_prox(prox)
    kernel = wait_for_kernels("solvers._hals_numba", torch.float64).passes(A, C, G, op.elastic, 3)
    torch.testing.assert_close(kernel, elastic_passes(A, C, G, op.elastic, 3), rtol=1e-12, atol=1e-12)
    bent = HALS(inner=3).rows(op, Quadratic(G.expand(10, 3, 3).contiguous(), C), A, {})  # a Gram matrix of its own for each row
    torch.testing.assert_close(kernel, bent, rtol=1e-9, atol=1e-9)


def test_the_number_of_threads_changes_no_bit():
    A, C, G = case(5000, 50, 16, torch.float64)
    passes, before = wait_for_kernels("solvers._hals_numba", torch.float64).passes, torch.get_num_threads()
    made = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        made.append(passes(A, C, G, (0.0, INF, 0.0, 0.0), 3))
    torch.set_num_threads(before)
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


def test_numbers_too_small_for_the_dtype_become_zero():
    A, C, G = torch.rand(4, 1), torch.full((4, 1), 1e-39), torch.ones(1, 1)
    for passes in (wait_for_kernels("solvers._hals_numba", torch.float32).passes, elastic_passes):
        assert not passes(A, C, G, (0.0, INF, 0.0, 0.0), 1).any()


def test_a_first_small_fit_waits_for_no_kernel():
    code = """
import sys, numpy, proxfactor as pf
r = pf.factorize(numpy.random.default_rng(0).random((30, 20)), 3, W="nonneg", H="nonneg", max_iter=50)
assert "numba" not in sys.modules, "numba was imported"
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_threads_that_share_work_may_share_it_again_and_a_fork_has_its_own():
    code = """
import os, torch
from proxfactor.prox._numba import in_threads
torch.set_num_threads(2)
done = []
in_threads(lambda first, last: in_threads(lambda a, b: done.append((a, b)), 100, 10**7), 8, 10**7)
assert sum(b - a for a, b in done) == 800
if (child := os.fork()) == 0:
    in_threads(lambda a, b: None, 100, 10**7)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False, timeout=100).returncode == 0
