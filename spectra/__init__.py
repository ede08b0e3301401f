"""Hessian and Fisher spectra of PyTorch checkpoints."""
