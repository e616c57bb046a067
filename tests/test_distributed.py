"""Rows spread over real processes: the same iterates, the same fit, one message for each half-step over the spread axis."""

import subprocess
import sys

import pytest
import torch
from test_solvers import begin, data, sweeps

from proxfactor import HALS, PALM, Group, Problem, Prox, factorize
from proxfactor.inits import start

CASES = {
    "hals": (HALS(), "dense", "frobenius", ("nonneg", "nonneg + l1(0.1)")),
    "hals, holes": (HALS(), "observed", "frobenius", ("nonneg", "box(0, 1)")),
    "palm, simplex": (PALM(), "dense", "frobenius", ("simplex(dim=1)", "nonneg")),
    "palm, weights": (PALM(), "weighted", "frobenius", ("nonneg", "simplex(dim=1)")),
    "palm, kl": (PALM(), "dense", "kl", ("nonneg", "nonneg")),
    "hals, sparse counts": (HALS(), "sparse", "kl", ("nonneg", "nonneg")),
}


def problem_of(case):
    solver, kind, loss, constraints = CASES[case]
    g = torch.Generator().manual_seed(0)
    tensors = {"w": torch.rand(40, 1, generator=g, dtype=torch.float64)}
    W = constraints[0] if "simplex" in constraints[0] else f"{constraints[0]} + l1($w)"
    return solver, Problem(data(kind), loss, Prox.parse(W, tensors), constraints[1])


def work(rank, size, where, out):
    """What each process does: its rows of every case, then a whole fit; the first one writes what it found."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=size)
    rows, found = Group(), {}
    calls, plain = [], dist.all_reduce
    dist.all_reduce = lambda *args, **kwargs: (calls.append(1), plain(*args, **kwargs))[1]
    for case in CASES:
        solver, whole = problem_of(case)
        mine = rows.my_rows(40)
        part = whole.take(mine)
        spread = Problem(part.X, part.loss, part.prox_W, part.prox_H, rows=rows)
        W, H = begin(whole)
        state = solver.init(spread, W[mine], H)
        solver.step(spread, solver.init(spread, W[mine], H))
        calls.clear()
        solver.step(spread, solver.init(spread, W[mine], H))
        found[case, "messages"] = torch.tensor(len(calls))
        for _ in range(8):
            state = solver.step(spread, state)
        everybody = torch.zeros(40, 3, dtype=torch.float64)
        everybody[mine] = state.W
        found[case, "W"], found[case, "H"] = rows.sum(everybody)[0], state.H
        found[case, "value"] = spread.value(state.W, state.H)
        found[case, "certificate"] = torch.stack(spread.certificate(state.W, state.H))
        found[case, "start"] = start(spread, 3)[1]
    _, whole = problem_of("hals")
    part = whole.take(rows.my_rows(40))
    result = factorize(Problem(part.X, part.loss, part.prox_W, part.prox_H, rows=rows), 3, tol=1e-4, max_iter=40)
    found["fit", "H"], found["fit", "loss"] = result.factors[1], torch.tensor(result.history[-1]["loss"], dtype=torch.float64)
    found["fit", "iterations"], found["fit", "error"] = (
        torch.tensor(result.iterations),
        torch.tensor(result.error, dtype=torch.float64),
    )
    if rank == 0:
        torch.save({"/".join(k): v for k, v in found.items()}, out)
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def found(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("group")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from test_distributed import work; "
    code += "work(int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])"
    here = __file__.rsplit("/", 1)[0]
    command = [
        [sys.executable, "-c", code, here, str(r), str(request.param), str(folder / "meet"), str(folder / "out")]
        for r in range(request.param)
    ]
    processes = [subprocess.Popen(c, stderr=subprocess.PIPE, text=True) for c in command]
    errors = [p.communicate(timeout=300)[1] for p in processes]
    assert all(p.returncode == 0 for p in processes), "\n".join(errors)
    return torch.load(folder / "out")


@pytest.mark.parametrize("case", CASES)
def test_processes_that_share_the_rows_make_the_iterates_of_one(found, case):
    solver, whole = problem_of(case)
    state = sweeps(solver, whole, 8)
    for name, expected in (("W", state.W), ("H", state.H), ("value", whole.value(state.W, state.H))):
        torch.testing.assert_close(found[f"{case}/{name}"], expected, rtol=1e-10, atol=1e-10)
    certificate = torch.stack(whole.certificate(state.W, state.H))
    torch.testing.assert_close(found[f"{case}/certificate"], certificate, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_a_start_does_not_depend_on_the_number_of_processes(found, case):
    _, whole = problem_of(case)
    torch.testing.assert_close(found[f"{case}/start"], start(whole, 3)[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", [c for c, (_, _, loss, _) in CASES.items() if loss == "frobenius"])
def test_a_sweep_sends_one_message(found, case):
    assert found[f"{case}/messages"] == 1


def test_a_whole_fit_is_the_fit_of_one_process(found):
    result = factorize(problem_of("hals")[1], 3, tol=1e-4, max_iter=40)
    assert found["fit/iterations"] == result.iterations
    torch.testing.assert_close(found["fit/H"], result.factors[1], rtol=1e-8, atol=1e-8)
    assert found["fit/loss"].item() == pytest.approx(result.history[-1]["loss"], rel=1e-10)
    assert found["fit/error"].item() == pytest.approx(result.error, rel=1e-9)


def test_an_operator_that_couples_the_spread_rows_is_refused_by_name():
    class Two(Group):
        def __init__(self):
            self.size, self.rank = 2, 0

    with pytest.raises(ValueError, match=r"Simplex\(dim=0\) on W couples dim 0.*2 processes"):
        Problem(data("dense"), "frobenius", "simplex(dim=0)", "nonneg", rows=Two())
    with pytest.raises(ValueError, match=r"on H couples dim 1"):
        Problem(data("dense"), "frobenius", "nonneg", "simplex(dim=1)", cols=Two())
