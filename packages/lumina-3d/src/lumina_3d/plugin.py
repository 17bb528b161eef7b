"""Registration of lumina-3d. `lumina --help` imports it, so it imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_core import hookimpl

if TYPE_CHECKING:
    from lumina_core.plugins.registry import (
        CommandRegistrations,
        ComponentRegistrations,
        ComponentTypeRegistrations,
        ModelRegistrations,
        RecipeRegistrations,
    )


@hookimpl
def lumina_register_component_types(component_types: ComponentTypeRegistrations) -> None:
    """Register the component types `coordinate_features` and `camera`."""
    component_types.add(
        "coordinate_features",
        "lumina_3d.points.coordinates:CoordinateFeatures",
        "lumina_3d.points.contract_check:check_coordinate_features",
        "coordinates of points -> features",
    )
    component_types.add(
        "camera",
        "lumina_3d.views.camera_encoding:CameraEncoding",
        "lumina_3d.views.contract_check:check_camera",
        "cameras of views -> features of tokens",
    )


@hookimpl
def lumina_register_components(components: ComponentRegistrations) -> None:
    """Register the components of point clouds and of views."""
    _register_points(components)
    _register_views(components)


def _register_points(components: ComponentRegistrations) -> None:
    """Register the components of point clouds."""
    package = "lumina_3d.points"
    components.tokenizer("3d.point_set", f"{package}.tokenizer:PointSet", "a token per point, in any order")
    components.autoencoder(
        "3d.scaled_coordinates", f"{package}.autoencoder:ScaledCoordinates", "coordinates of unit variance"
    )
    components.backbone("3d.point_next_dit", f"{package}.backbone:PointNextDiT", "Next-DiT over a set of points")
    components.coupling("3d.mixed_transport", f"{package}.coupling:MixedTransport", "mixed exact and independent pairs")
    components.conditioner("3d.partial_cloud", f"{package}.partial:PartialCloudConditioner", "given points of a cloud")
    components.dataset("3d.family_clouds", f"{package}.dataset:FamilyClouds", "built in: parametric families")
    components.dataset("3d.furniture", f"{package}.furniture:Furniture", "built in: real furniture, a test")
    components.dataset("3d.cloud_folder", f"{package}.dataset:CloudFolder", "folder of clouds and meshes by class")
    components.task("3d.text_to_points", f"{package}.task:TextToPoints", "Point clouds of a prompt.", command="points")
    components.task(
        "3d.class_to_points",
        f"{package}.task:ClassToPoints",
        "Point clouds of a class.",
        command="cloud",
    )
    for name, target, summary in (
        ("linear", "LinearFeatures", "coordinates alone"),
        ("fourier", "FourierFeatures", "sines and cosines, the same for any count"),
        ("interpolated_fourier", "InterpolatedFourierFeatures", "lower frequencies for more points"),
        ("time_aware_fourier", "TimeAwareFourierFeatures", "lower frequencies for more points, near noise"),
    ):
        components.coordinate_features(f"3d.{name}", f"{package}.coordinates:{target}", summary)
    components.feature_extractor("3d.point_coordinates", f"{package}.metrics:PointCoordinates", "coordinates of points")
    for name, target, summary in (
        ("point_sets", "PointSetScores", "MMD, COV, 1-NNA and JSD of sets of clouds"),
        ("point_density", "PointDensity", "nearest distances and flatness of clouds"),
        ("point_attributes", "PointAttributes", "attributes read back by geometry"),
        ("point_class", "PointClass", "class of the nearest real cloud"),
    ):
        components.metric(f"3d.{name}", f"{package}.metrics:{target}", summary)


def _register_views(components: ComponentRegistrations) -> None:
    """Register the components of views."""
    package = "lumina_3d.views"
    components.task("3d.views", f"{package}.task:Views", "Views of one object.", command="views")
    components.tokenizer(
        "3d.view_patchify",
        "lumina_core.tokenizers:StackPatchify",
        "square patches of several views",
        defaults={"patch_size": 8},
    )
    components.autoencoder("3d.per_view", f"{package}.tokenizer:PerViewAutoencoder", "one of pictures, view by view")
    components.conditioner("3d.views", f"{package}.conditioner:ViewConditioner", "cameras and given pictures")
    components.feature_extractor("3d.view_pixels", f"{package}.metrics:ViewPixels", "pixels of views")
    components.metric("3d.view_scores", f"{package}.metrics:ViewScores", "silhouettes and colours of views")
    module = f"{package}.dataset"
    components.dataset("3d.family_views", f"{module}:FamilyViews", "built in: views of the parametric families")
    components.dataset("3d.stored_views", f"{module}:StoredViews", "rendered objects: folders, or tar files")
    module = f"{package}.camera_encoding"
    components.camera("3d.coordinates", f"{module}:NoFeatures", "none: the position encoding reads the cameras")
    components.camera("3d.relative_angles", f"{module}:RelativeAngles", "azimuth, elevation and radius, as the paper")
    components.camera("3d.plucker", f"{module}:PluckerRays", "rays in the frame of the reference view")
    module = f"{package}.position_encoding"
    components.position_encoding("3d.prope", f"{module}:Prope", "projective attention (PRoPE) on the view's channels")
    components.position_encoding("3d.urope", f"{module}:Urope", "positions in the view of the query (URoPE)")


@hookimpl
def lumina_register_recipes(recipes: RecipeRegistrations) -> None:
    """Register the recipes of the package."""
    points = {
        "points": "built-in model: point clouds of any count from prompts",
        "points_class": "class-conditional point clouds, as the paper's on ShapeNet",
        "points_tiny": "very small model that trains in a minute on a CPU",
    }
    views = {
        "views": "the built-in model of views: 1 to 4 of 64 px, from text and pictures",
        "views_from_emoji": "views that begin from the weights of image.emoji",
        "views_600m_256": "the paper's 600M size, first stage: 4 views of 256 px",
        "views_600m_512": "the paper's 600M size, second stage: 4 views of 512 px",
        "views_600m_512_8": "the paper's 600M size, third stage: 8 views of 512 px",
    }
    for name, summary in {**points, **views}.items():
        recipes.add(f"3d.{name}", f"lumina_3d:recipes/{name}.yaml", summary)


@hookimpl
def lumina_register_commands(commands: CommandRegistrations) -> None:
    """Register the commands of the package besides those of its tasks."""
    module = "lumina_3d.views.commands"
    commands.add("cameras", f"{module}:cameras", "Show, convert and draw cameras.")
    commands.add("render", f"{module}:render", "Render meshes to a data set of views.")


@hookimpl
def lumina_register_models(models: ModelRegistrations) -> None:
    """Register the built-in models."""
    models.add(
        "3d.points",
        "lumina_3d:models/points",
        "point clouds of any count from prompts",
        task="3d.text_to_points",
    )
    models.add(
        "3d.views",
        "lumina_3d:models/views",
        "views of one object, 64 px, from prompts and pictures; undertrained",
        task="3d.views",
    )
