"""Recipes on learned optimizers that adapt to a new task (M-L2O)."""
