"""One thread for each test process: several processes share the cores. Compiled kernels are there from the first test on."""

import pytest
import torch

from proxfactor.compiled import wait_for_kernels

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _kernels():
    for name in ("als", "apg", "hals", "kl"):
        for dtype in (torch.float32, torch.float64):
            wait_for_kernels(f"solvers._{name}_numba", dtype)
