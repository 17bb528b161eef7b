"""Generation: pipeline, resolved settings, velocity with guidance, inversion, and schedule fitting."""
