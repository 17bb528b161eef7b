"""Registration of the core's components. Imported at every start, so it imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_core import hookimpl

if TYPE_CHECKING:
    from lumina_core.plugins.registry import ComponentRegistrations

_COMPONENTS = {
    "backbone": [
        ("next_dit", "models.next_dit:NextDiTBackbone", "Next-DiT, the backbone of Lumina-Next"),
        ("flag_dit", "models.flag_dit:FlagDiTBackbone", "Flag-DiT with one position axis, the paper's baseline"),
    ],
    "position_encoding": [
        ("axial_rope", "models.rope:AxialRope", "rotary embedding, channels divided by axis"),
        ("mixed_rope", "models.rope:MixedRope", "rotary embedding, learned mixed frequencies"),
    ],
    "conditioner": [
        ("text", "conditioning.text:TextConditioner", "text, by a small trainable encoder"),
        (
            "transformers",
            "conditioning.transformers_text:TransformersConditioner",
            "text, by a pretrained language model (Gemma, T5)",
        ),
        ("class_label", "conditioning.class_label:ClassLabelConditioner", "class index"),
        ("scalar", "conditioning.scalar:ScalarConditioner", "number: duration, pitch, rate"),
    ],
    "dataset": [("mixture", "data.dataset:MixtureDataset", "mixture of data sets with weights")],
    "head": [
        ("velocity", "models.heads:VelocityHead", "velocity of every token, for generation"),
        ("classification", "models.heads:ClassificationHead", "class logits, mean-pooled"),
    ],
    "objective": [
        ("flow_matching", "flow.loss:FlowMatching", "flow matching: the velocity from noise to data"),
        ("cross_entropy", "training.objectives:CrossEntropy", "classification: logits and class indices"),
        (
            "contrastive_text",
            "training.objectives:ContrastivePretraining",
            "pretraining of a conditioner without a backbone",
        ),
        ("reconstruction", "training.objectives:Reconstruction", "training of an autoencoder alone"),
    ],
    "coupling": [
        ("independent", "flow.coupling:IndependentCoupling", "independent noise"),
        (
            "optimal_transport",
            "flow.coupling:OptimalTransportCoupling",
            "noise assigned to the nearest data, within a batch or a set",
        ),
    ],
    "path": [
        ("linear", "flow.path:LinearPath", "straight lines, the path of Lumina-Next"),
        ("gvp", "flow.path:GVPPath", "sine and cosine, constant variance"),
        ("vp", "flow.path:VPPath", "variance-preserving diffusion, with reversed time"),
    ],
    "time_sampler": [
        ("uniform", "flow.schedules:UniformTimeSampler", "uniform times"),
        ("logit_normal", "flow.schedules:LogitNormalTimeSampler", "logit-normal: more times in the middle"),
        ("shifted_uniform", "flow.schedules:ShiftedUniformTimeSampler", "shifted uniform: more times near data"),
        ("clamped", "flow.schedules:ClampedTimeSampler", "another sampler, clamped to an interval"),
    ],
    "schedule": [
        ("uniform_schedule", "flow.schedules:UniformSchedule", "equal steps"),
        ("shift_schedule", "flow.schedules:ShiftSchedule", "rational shift, finer near noise"),
        ("diffusers_schedule", "flow.schedules:DiffusersSchedule", "the schedule of diffusers"),
        ("rational_schedule", "flow.schedules:ShiftSchedule", "shift_schedule by the paper's name"),
        ("sigmoid_schedule", "flow.schedules:SigmoidSchedule", "the paper's piecewise sigmoid"),
        ("fitted_schedule", "flow.schedules:FittedSchedule", "times fitted to the model, saved in its recipe"),
        ("custom_schedule", "flow.schedules:CustomSchedule", "custom times"),
    ],
    "solver": [
        ("euler", "flow.solvers:euler", "first order, one evaluation per step"),
        ("midpoint", "flow.solvers:midpoint", "second order, two evaluations per step"),
        ("heun", "flow.solvers:heun", "second order, two evaluations per step"),
        ("rk4", "flow.solvers:rk4", "fourth order, four evaluations per step"),
        ("rk4_38", "flow.solvers:rk4_three_eighths", "fourth order, Kutta's 3/8 rule"),
        ("heun3", "flow.solvers:heun3", "third order, three evaluations per step"),
        ("adams", "flow.solvers:AdamsBashforth", "second order, one evaluation per step, two-step Adams-Bashforth"),
        ("dpmpp", "flow.solvers:DPMSolverPP", "DPM-Solver++(2M), one evaluation per step, for the linear path"),
        ("dopri5", "flow.solvers:AdaptiveRungeKutta", "fifth order, adaptive steps by tolerances"),
        ("sde", "flow.solvers:SDESolver", "stochastic: Euler-Maruyama or Heun"),
    ],
    "guidance": [("cfg", "sampling.velocity:cfg", "classifier-free guidance")],
    "rope_scaling": [
        ("none", "models.rope_scaling:NoScaling", "the trained frequencies"),
        ("interpolation", "models.rope_scaling:PositionInterpolation", "positions scaled to the trained length"),
        ("ntk", "models.rope_scaling:NTKScaling", "NTK: larger base, only low frequencies are interpolated"),
        (
            "frequency_aware",
            "models.rope_scaling:FrequencyAwareScaling",
            "the paper's, by the wavelength of the trained side",
        ),
        (
            "time_aware",
            "models.rope_scaling:TimeAwareScaling",
            "the paper's default: interpolation near noise, NTK near data",
        ),
        ("watershed", "models.rope_scaling:SwitchScaling", "the published switch from interpolation to NTK"),
        ("yarn", "models.rope_scaling:YaRN", "YaRN: NTK by parts, with sharper attention"),
        ("dype", "models.rope_scaling:DyPE", "DyPE: strong near noise, none at data"),
    ],
    "block_cache": [
        ("teacache_like", "models.block_cache:ThresholdPolicy", "as TeaCache: residuals of the blocks are reused"),
    ],
    "context_drop": [
        (
            "time_aware",
            "models.context_drop:TimeAwareContextDrop",
            "the paper's: spatially averaged keys and values, less and less over time",
        ),
    ],
}
"""(name, import string, summary) of each component by type, without the prefixes `core.` and `lumina_core.`."""


@hookimpl
def lumina_register_components(components: ComponentRegistrations) -> None:
    """Register all components of the core."""
    for component_type, entries in _COMPONENTS.items():
        register = getattr(components, component_type)
        for name, target, summary in entries:
            register(f"core.{name}", f"lumina_core.{target}", summary)
