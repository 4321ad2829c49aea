"""How good reconstructions are: metrics, naive baselines, tables."""
