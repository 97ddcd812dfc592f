"""Recipes on learned optimizers for minimization."""
