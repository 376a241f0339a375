import torch

torch.set_num_threads(1)                                           # tiny tensors: two threads wait for each other more than they work
