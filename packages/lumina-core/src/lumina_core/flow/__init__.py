"""Mathematics on tensors: paths, times, solvers, guidance and the objective. Knows no model and no file."""
