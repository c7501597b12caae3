"""GPU kernels and their plain PyTorch twins: tensors in, tensors out. Imports nothing of ours."""
