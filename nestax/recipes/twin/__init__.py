"""Learned minimax optimizers: Shen et al. (ICLR 2021), their tables and figures, and past them."""
