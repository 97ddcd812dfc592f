"""Lyapunov exponents for diversity in differentiable games: Lorraine et al. (AAMAS 2022)."""

PAPER = "Lorraine et al., Lyapunov exponents for diversity in differentiable games (AAMAS 2022)"
