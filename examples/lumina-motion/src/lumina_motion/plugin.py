"""Components of lumina-motion. The module is imported at every start: keep it light."""

from lumina_core import hookimpl


@hookimpl
def lumina_register_components(components):
    components.tokenizer("motion.frames", "lumina_motion.curves:Frames", "moments side by side, at (time, 0, 0)")
    components.autoencoder("motion.places", "lumina_motion.curves:Places", "no latent: places in the plane themselves")
    components.dataset("motion.figures", "lumina_motion.figures:Figures", "circles, eights and hops, made as needed")
    components.task("motion.move", "lumina_motion.task:Move", "A motion from a few words.", command="motion")


@hookimpl
def lumina_register_recipes(recipes):
    recipes.add("motion.tiny", "lumina_motion:recipes/tiny.yaml", "trains on a CPU in a minute")
