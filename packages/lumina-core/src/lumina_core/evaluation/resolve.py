"""Which exam and which metrics a command names: data by recipe, name or folder; metrics by name, with options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lumina_core.config import ComponentSpec, Config, apply_override, suggest_or_list
from lumina_core.errors import ConfigError, LuminaError
from lumina_core.evaluation.eval_set import make_eval_set
from lumina_core.model import Model, build_component, build_dataset
from lumina_core.plugins.registry import Registry
from lumina_core.protocols import EvalSet, Metric
from lumina_core.recipe import Recipe


def eval_set_from_recipe(recipe: Recipe, registry: Registry, model: Model) -> EvalSet:
    """The data set of a recipe (the model's own, say) as an exam.

    Raises:
        ConfigError: it names none, or an empty one.
    """
    if recipe.dataset is None:
        raise ConfigError("this model does not say what it learnt from; name data to judge it by with --dataset")
    return make_eval_set(build_dataset(recipe, registry), model.task.data_field)


def find_eval_set(name: str, registry: Registry, model: Model) -> EvalSet | None:
    """The data set called `name`, or the folder `name` as one; None where it is neither.

    A folder is read by the data set `folder` of the plugin that brings the model's task. What the task and the data set
    both can be told (a size) is told to the data as it was to the task: real ones are compared as the model makes them.
    """
    if name in registry.registrations("dataset"):
        spec = ComponentSpec(type=name)
    elif Path(name).is_dir():
        plugin = model.recipe.task.type.partition(".")[0]
        spec = ComponentSpec.model_validate({"type": f"{plugin}.folder", "folder": name})
    else:
        return None
    config = getattr(model.task, "config", None)
    shared_options = config.model_dump() if isinstance(config, Config) else {}
    return make_eval_set(build_component(registry, "dataset", spec, **shared_options), model.task.data_field)


def default_metrics(
    registry: Registry, model: Model, settings: Sequence[str], num_generated: int
) -> tuple[dict[str, Metric], list[str]]:
    """Every metric of the plugin that brings the model's task which works as it is; and why others are left out.

    Args:
        settings: as for `named_metrics`.
        count: how many things will be made.

    Raises:
        ConfigError: none does.
    """
    plugin = model.recipe.task.type.partition(".")[0]
    names = [name for name in registry.registrations("metric") if name.partition(".")[0] == plugin]
    options = _metric_options({name: name for name in names}, settings)
    metrics, notes = {}, []
    for name in names:
        try:
            metric = _build_metric(name, options[name], registry)
        except LuminaError as error:
            if options[name]:
                raise
            notes.append(f"{name} is left out: {error}")
            continue
        if metric.min_samples > num_generated:
            notes.append(
                f"{name} is left out: it needs at least {metric.min_samples} things made, here are {num_generated}"
            )
        else:
            metrics[name] = metric
    if not metrics:
        raise ConfigError(f"no metric works as it is ({'; '.join(notes) or 'none is installed'}); see: lumina plugins")
    return metrics, notes


def resolve_metrics(names: Sequence[str], settings: Sequence[str], registry: Registry) -> dict[str, Metric]:
    """Metrics by name, with `NAME.OPTION=VALUE` carried out.

    Raises:
        ConfigError, PluginError: nothing is called so, an option does not fit or is for a metric that is not asked.
    """
    full_names = {_full_name(name, registry): name for name in names}
    options = _metric_options(full_names, settings)
    return {name: _build_metric(name, options[name], registry) for name in full_names}


def _metric_options(full_names: Mapping[str, str], settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Options of each metric; `full` names them in full and as they were asked for."""
    options: dict[str, dict[str, Any]] = {name: {} for name in full_names}
    for setting in settings:
        owner = next((name for name in full_names if setting.startswith((f"{name}.", f"{full_names[name]}."))), None)
        if owner is None:
            prefix_word = setting.partition("=")[0]
            raise ConfigError(
                f"--set {setting}: no metric that is asked for begins '{prefix_word}'{suggest_or_list(prefix_word, full_names)}"
            )
        prefix = owner if setting.startswith(f"{owner}.") else full_names[owner]
        options[owner] = apply_override(options[owner], setting[len(prefix) + 1 :])
    return options


def _build_metric(name: str, options: Mapping[str, Any], registry: Registry) -> Metric:
    return cast(Metric, build_component(registry, "metric", ComponentSpec.model_validate({"type": name, **options})))


def _full_name(name: str, registry: Registry) -> str:
    available = registry.registrations("metric")
    if name in available:
        return name
    registry.find("metric", name)  # says what is wrong with the name
    return next(other for other in available if other.rpartition(".")[2] == name)
