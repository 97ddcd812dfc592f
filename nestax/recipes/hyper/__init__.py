"""Hypergradients: Lorraine et al. (AISTATS 2020) and the thesis of Lorraine (2024)."""
