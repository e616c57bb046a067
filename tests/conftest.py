"""One thread for each test process: several processes share the cores."""

import torch

torch.set_num_threads(1)
