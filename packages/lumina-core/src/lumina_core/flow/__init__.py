"""Flow matching on tensors: paths, time samplers, schedules, solvers, guidance and losses. No models, no files."""
