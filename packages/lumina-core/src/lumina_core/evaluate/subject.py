"""Which exam and which metrics a command names: data by recipe, name or folder; metrics by name, with options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lumina_core.config import Config, Use, nearest, with_setting
from lumina_core.errors import ConfigError, LuminaError
from lumina_core.evaluate.exam import exam_of
from lumina_core.judging import Exam, Metric
from lumina_core.model import Model, build, build_dataset
from lumina_core.plugins.registry import Registry
from lumina_core.recipe import Recipe


def recipe_exam(recipe: Recipe, registry: Registry, model: Model) -> Exam:
    """The data set of a recipe (the model's own, say) as an exam.

    Raises:
        ConfigError: it names none, or an empty one.
    """
    if recipe.dataset is None:
        raise ConfigError("this model does not say what it learnt from; name data to judge it by with --data")
    return exam_of(build_dataset(recipe, registry), model.task.data_field)


def named_exam(name: str, registry: Registry, model: Model) -> Exam | None:
    """The data set called `name`, or the folder `name` as one; None where it is neither.

    A folder is read by the data set `folder` of the plugin that brings the model's task. What the task and the data set
    both can be told (a size) is told to the data as it was to the task: real ones are compared as the model makes them.
    """
    if name in registry.entries("dataset"):
        use = Use(use=name)
    elif Path(name).is_dir():
        plugin = model.recipe.task.use.partition(".")[0]
        use = Use.model_validate({"use": f"{plugin}.folder", "folder": name})
    else:
        return None
    config = getattr(model.task, "config", None)
    alike = config.model_dump() if isinstance(config, Config) else {}
    return exam_of(build(registry, "dataset", use, **alike), model.task.data_field)


def usual_metrics(
    registry: Registry, model: Model, settings: Sequence[str], count: int
) -> tuple[dict[str, Metric], list[str]]:
    """Every metric of the plugin that brings the model's task which works as it is; and why others are left out.

    Args:
        settings: as for `named_metrics`.
        count: how many things will be made.

    Raises:
        ConfigError: none does.
    """
    plugin = model.recipe.task.use.partition(".")[0]
    names = [name for name in registry.entries("metric") if name.partition(".")[0] == plugin]
    options = _options({name: name for name in names}, settings)
    metrics, left_out = {}, []
    for name in names:
        try:
            metric = _built(name, options[name], registry)
        except LuminaError as error:
            if options[name]:
                raise
            left_out.append(f"{name} is left out: {error}")
            continue
        if metric.least > count:
            left_out.append(f"{name} is left out: it needs at least {metric.least} things made, here are {count}")
        else:
            metrics[name] = metric
    if not metrics:
        raise ConfigError(
            f"no metric works as it is ({'; '.join(left_out) or 'none is installed'}); see: lumina plugins"
        )
    return metrics, left_out


def named_metrics(names: Sequence[str], settings: Sequence[str], registry: Registry) -> dict[str, Metric]:
    """Metrics by name, with `NAME.OPTION=VALUE` carried out.

    Raises:
        ConfigError, PluginError: nothing is called so, an option does not fit or is for a metric that is not asked.
    """
    full = {_full(name, registry): name for name in names}
    options = _options(full, settings)
    return {name: _built(name, options[name], registry) for name in full}


def _options(full: Mapping[str, str], settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Options of each metric; `full` names them in full and as they were asked for."""
    options: dict[str, dict[str, Any]] = {name: {} for name in full}
    for setting in settings:
        owner = next((name for name in full if setting.startswith((f"{name}.", f"{full[name]}."))), None)
        if owner is None:
            word = setting.partition("=")[0]
            raise ConfigError(f"--set {setting}: no metric that is asked for begins '{word}'{nearest(word, full)}")
        prefix = owner if setting.startswith(f"{owner}.") else full[owner]
        options[owner] = with_setting(options[owner], setting[len(prefix) + 1 :])
    return options


def _built(name: str, options: Mapping[str, Any], registry: Registry) -> Metric:
    return cast(Metric, build(registry, "metric", Use.model_validate({"use": name, **options})))


def _full(name: str, registry: Registry) -> str:
    known = registry.entries("metric")
    if name in known:
        return name
    registry.find("metric", name)  # says what is wrong with the name
    return next(other for other in known if other.rpartition(".")[2] == name)
