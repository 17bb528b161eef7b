"""Components of lumina-ralston."""

from lumina_core import hookimpl


@hookimpl
def lumina_register_components(components):
    components.solver("ralston.step", "lumina_ralston.step:ralston", "second order, two evaluations")
