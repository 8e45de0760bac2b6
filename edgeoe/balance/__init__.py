"""OE: how out-of-distribution images rebalance compression, after Wu et al., arXiv 2502.05832.

The paper's equations are reconstructed from its abstract and the works it builds on: Open-sampling (Wei et
al., ICML 2022) for the complementary prior, and Hinton et al., 2015, for distillation.
"""
