"""Complex momentum: Lorraine et al. (AISTATS 2022)."""
