"""Lyapunov exponents for diversity in differentiable games (Lorraine et al., 2022)."""
