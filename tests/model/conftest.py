"""Model tests run torch on one thread, like serving does."""

import torch

torch.set_num_threads(1)
