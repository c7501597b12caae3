"""GPU kernels and their plain PyTorch twins: tensors in, tensors out. Imports no other package of
ours."""
