"""Guarded learned optimizers: Premont-Schwarz et al. (2022)."""
