"""Tensors: segment tokens, their backbones, the read-out and the trainer. Imports nothing of ours."""
