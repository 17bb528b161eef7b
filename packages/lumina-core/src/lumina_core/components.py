"""What the core brings, through the same door as everybody. Imported at every start: keep it light."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_core import hookimpl

if TYPE_CHECKING:
    from lumina_core.plugins.registry import ComponentRegistrations


@hookimpl
def lumina_register_components(components: ComponentRegistrations) -> None:
    """Backbones, conditioners, heads, objectives, and the mathematics of the flow."""
    components.backbone("core.next_dit", "lumina_core.models.next_dit:NextDiTBackbone", "the backbone of Lumina-Next")
    components.backbone(
        "core.flag_dit",
        "lumina_core.models.flag_dit:FlagDiTBackbone",
        "the older backbone, one axis, the paper's baseline",
    )
    components.conditioner(
        "core.text", "lumina_core.conditioning.text:TextConditioner", "captions by a small trainable encoder"
    )
    components.conditioner(
        "core.transformers",
        "lumina_core.conditioning.transformers_text:TransformersConditioner",
        "captions by a pretrained language model (Gemma, T5)",
    )
    components.conditioner(
        "core.class_label", "lumina_core.conditioning.class_label:ClassLabelConditioner", "one class of many"
    )
    components.conditioner(
        "core.scalar", "lumina_core.conditioning.scalar:ScalarConditioner", "a number: duration, pitch, rate"
    )
    components.dataset(
        "core.mixture", "lumina_core.data.dataset:MixtureDataset", "several data sets, each with its weight"
    )
    components.head("core.velocity", "lumina_core.models.heads:VelocityHead", "one vector a token, for generation")
    components.objective("core.flow_matching", "lumina_core.flow.loss:FlowMatching", "the velocity from noise to data")
    components.head("core.classification", "lumina_core.models.heads:ClassificationHead", "class logits, mean-pooled")
    components.objective(
        "core.cross_entropy", "lumina_core.training.objectives:CrossEntropy", "classification: logits and class indices"
    )
    components.objective(
        "core.contrastive_text",
        "lumina_core.training.objectives:ContrastivePretraining",
        "teaches a conditioner before the backbone",
    )
    components.objective(
        "core.reconstruction", "lumina_core.training.objectives:Reconstruction", "trains an autoencoder alone"
    )
    components.coupling("core.independent", "lumina_core.flow.coupling:IndependentCoupling", "noise as it was drawn")
    components.coupling(
        "core.optimal_transport",
        "lumina_core.flow.coupling:OptimalTransportCoupling",
        "noise assigned to the nearest data, within a batch or a set",
    )
    components.path("core.linear", "lumina_core.flow.path:LinearPath", "straight lines, the path of Lumina-Next")
    components.path("core.gvp", "lumina_core.flow.path:GVPPath", "sine and cosine, constant variance")
    components.path("core.vp", "lumina_core.flow.path:VPPath", "variance-preserving diffusion, time turned round")
    components.time_sampler("core.uniform", "lumina_core.flow.schedules:UniformTimeSampler", "draw: every time alike")
    components.time_sampler(
        "core.logit_normal", "lumina_core.flow.schedules:LogitNormalTimeSampler", "draw: more in the middle"
    )
    components.time_sampler(
        "core.shifted_uniform", "lumina_core.flow.schedules:ShiftedUniformTimeSampler", "draw: more towards data"
    )
    components.time_sampler(
        "core.clamped", "lumina_core.flow.schedules:ClampedTimeSampler", "draw: another one within an interval"
    )
    components.schedule("core.uniform_schedule", "lumina_core.flow.schedules:UniformSchedule", "grid: equal steps")
    components.schedule(
        "core.shift_schedule", "lumina_core.flow.schedules:ShiftSchedule", "grid: the rational shift, finer near noise"
    )
    components.schedule(
        "core.diffusers_schedule", "lumina_core.flow.schedules:DiffusersSchedule", "grid: as diffusers steps"
    )
    components.schedule(
        "core.rational_schedule", "lumina_core.flow.schedules:ShiftSchedule", "grid: the same by the paper's name"
    )
    components.schedule(
        "core.sigmoid_schedule", "lumina_core.flow.schedules:SigmoidSchedule", "grid: the paper's piecewise sigmoid"
    )
    components.schedule(
        "core.fitted_schedule",
        "lumina_core.flow.schedules:FittedSchedule",
        "grid: measured on the model, kept in its folder",
    )
    components.schedule(
        "core.custom_schedule", "lumina_core.flow.schedules:CustomSchedule", "grid: exactly the given times"
    )
    components.solver("core.euler", "lumina_core.flow.solvers:euler", "first order, one evaluation a step")
    components.solver("core.midpoint", "lumina_core.flow.solvers:midpoint", "second order, two evaluations")
    components.solver("core.heun", "lumina_core.flow.solvers:heun", "second order, two evaluations")
    components.solver("core.rk4", "lumina_core.flow.solvers:rk4", "fourth order, four evaluations")
    components.solver("core.rk4_38", "lumina_core.flow.solvers:rk4_three_eighths", "fourth order, Kutta's 3/8 rule")
    components.solver("core.heun3", "lumina_core.flow.solvers:heun3", "third order, three evaluations")
    components.solver(
        "core.adams",
        "lumina_core.flow.solvers:AdamsBashforth",
        "second order, one evaluation: two velocities remembered",
    )
    components.solver(
        "core.dpmpp", "lumina_core.flow.solvers:DPMSolverPP", "DPM-Solver++(2M), one evaluation, the linear path"
    )
    components.solver(
        "core.dopri5", "lumina_core.flow.solvers:AdaptiveRungeKutta", "fifth order, chooses its own steps by tolerances"
    )
    components.solver("core.sde", "lumina_core.flow.solvers:SDESolver", "stirs noise in: Euler-Maruyama or Heun")
    components.guidance("core.cfg", "lumina_core.flow.guidance:cfg", "classifier-free guidance")
    _register_rope_scaling(components)


def _register_rope_scaling(components: ComponentRegistrations) -> None:
    """Position encodings, and rotary frequencies beyond the trained size."""
    components.position_encoding(
        "core.axial_rope",
        "lumina_core.models.position_encoding:AxialRope",
        "rotary embedding, channels divided by axis",
    )
    components.position_encoding(
        "core.mixed_rope",
        "lumina_core.models.position_encoding:MixedRope",
        "rotary embedding, learned mixed frequencies",
    )
    module = "lumina_core.models.rope_scaling"
    components.rope_scaling("core.none", f"{module}:NoScaling", "the trained frequencies")
    components.rope_scaling(
        "core.interpolation", f"{module}:PositionInterpolation", "positions pressed into the trained length"
    )
    components.rope_scaling(
        "core.ntk", f"{module}:NTKScaling", "a larger base: low frequencies are interpolated, high ones stay"
    )
    components.rope_scaling(
        "core.frequency_aware", f"{module}:FrequencyAwareScaling", "the paper's, by the wave of the trained side"
    )
    components.rope_scaling(
        "core.time_aware", f"{module}:TimeAwareScaling", "the paper's default: interpolation at noise, NTK at data"
    )
    components.rope_scaling(
        "core.watershed", f"{module}:SwitchScaling", "the published switch from interpolation to NTK"
    )
    components.rope_scaling("core.yarn", f"{module}:YaRN", "NTK by parts, with sharper attention")
    components.block_cache(
        "core.teacache_like",
        "lumina_core.models.block_cache:ThresholdPolicy",
        "as TeaCache: what the blocks added is added again",
    )
    components.context_drop(
        "core.time_aware",
        "lumina_core.models.context_drop:TimeAwareContextDrop",
        "the paper's: keys and values averaged over space, less and less",
    )
    components.rope_scaling("core.dype", f"{module}:DyPE", "strong at noise, gone at data")
