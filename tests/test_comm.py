"""One process and several: the same sums, in one message."""

import os
import subprocess
import sys

import pytest
import torch

from proxfactor.comm import Comm, Group


def test_one_process_has_every_sum_already():
    comm, a, b = Comm(), torch.ones(2), torch.ones(3).long()
    assert comm.sum(a, b) == (a, b)
    assert comm.sum() == ()
    assert comm.max(a) is a
    assert comm.broadcast(a) is a
    assert comm.offset(5) == 0
    assert comm.my_rows(7) == slice(0, 7)


@pytest.mark.parametrize("size", range(1, 6))
@pytest.mark.parametrize("count", range(12))
def test_the_processes_cover_the_rows_without_overlap(size, count):
    parts = []
    for rank in range(size):
        comm = Comm()
        comm.size, comm.rank = size, rank
        parts.append(range(count)[comm.my_rows(count)])
    assert [i for part in parts for i in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_group_needs_an_initialised_process_group():
    with pytest.raises(RuntimeError, match="init_process_group"):
        Group()


WORKER = """
import sys
import torch
import torch.distributed as dist
from proxfactor.comm import Group

rank, size, where = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=where, rank=rank, world_size=size)
calls, plain = [], dist.all_reduce
dist.all_reduce = lambda *args, **kwargs: (calls.append(1), plain(*args, **kwargs))[1]
comm = Group()
assert (comm.rank, comm.size) == (rank, size)

given = (
    torch.full((2, 3), rank + 1.0),
    torch.full((4,), 0.1 * (rank + 1), dtype=torch.float64),
    torch.tensor(2**24 + 1),
    torch.arange(6.0).reshape(2, 3).mT,
    torch.zeros(0),
)
kept = [t.clone() for t in given]
got = comm.sum(*given)
assert len(calls) == 1, calls
total = size * (size + 1) / 2
expected = (
    torch.full((2, 3), total),
    torch.full((4,), 0.1 * total, dtype=torch.float64),
    torch.tensor(size * (2**24 + 1)),
    size * torch.arange(6.0).reshape(2, 3).mT,
    torch.zeros(0),
)
for g, e, t, k in zip(got, expected, given, kept, strict=True):
    assert (g.shape, g.dtype) == (e.shape, e.dtype)
    assert torch.allclose(g, e, rtol=1e-15 if g.dtype == torch.float64 else 1e-6)
    assert torch.equal(t, k)
assert comm.sum(torch.tensor(2**24 + 1), torch.tensor(1.0))[0] == size * (2**24 + 1)
assert comm.sum() == ()

odd = torch.tensor([[float(rank), 1.0], [-float(rank), 2.0]]).mT
assert comm.max(odd).tolist() == [[size - 1.0, 0.0], [1.0, 2.0]]
first = comm.broadcast(odd)
assert first.tolist() == [[0.0, 0.0], [1.0, 2.0]]
assert odd[0, 0] == rank
assert comm.offset(rank + 2) == sum(r + 2 for r in range(rank))
rows = comm.my_rows(7)
assert comm.offset(rows.stop - rows.start) == rows.start
dist.destroy_process_group()
"""


@pytest.mark.parametrize("size", [2, 3])
def test_a_group_sums_tensors_of_any_shape_and_dtype_in_one_message(size, tmp_path):
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    where = (tmp_path / "meeting").as_uri()
    started = []
    for rank in range(size):
        command = [sys.executable, "-c", WORKER, str(rank), str(size), where]
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    said = [p.communicate(timeout=120)[1] for p in started]
    assert [p.returncode for p in started] == [0] * size, "\n".join(said)
