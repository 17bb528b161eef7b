"""What the core brings, through the same door as everybody. Imported at every start: keep it light."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_core import hookimpl

if TYPE_CHECKING:
    from lumina_core.plugins.offers import Parts


@hookimpl
def lumina_register_parts(parts: Parts) -> None:
    """Backbones, conditioners, heads, objectives, and the mathematics of the flow."""
    parts.backbone("core.next_dit", "lumina_core.nn.next_dit:NextDiT", "the backbone of Lumina-Next")
    parts.backbone(
        "core.flag_dit", "lumina_core.nn.flag_dit:FlagDiT", "the older backbone, one axis, the paper's baseline"
    )
    parts.conditioner("core.text", "lumina_core.builtin.text:TextConditioner", "captions by a small trainable encoder")
    parts.conditioner(
        "core.transformers",
        "lumina_core.builtin.pretrained:TransformersConditioner",
        "captions by a pretrained language model (Gemma, T5)",
    )
    parts.conditioner("core.label", "lumina_core.builtin.label:LabelConditioner", "one class of many")
    parts.conditioner("core.number", "lumina_core.builtin.number:NumberConditioner", "a number: duration, pitch, rate")
    parts.dataset("core.mixture", "lumina_core.builtin.mixture:Mixture", "several data sets, each with its weight")
    parts.head("core.velocity", "lumina_core.builtin.velocity:VelocityHead", "one vector a token, for generation")
    parts.objective("core.flow_matching", "lumina_core.flow.objective:FlowMatching", "the velocity from noise to data")
    parts.objective(
        "core.alignment", "lumina_core.builtin.alignment:Alignment", "teaches a conditioner before the backbone"
    )
    parts.objective(
        "core.reconstruction", "lumina_core.builtin.reconstruction:Reconstruction", "trains an autoencoder alone"
    )
    parts.path("core.linear", "lumina_core.flow.path:Linear", "straight lines, the path of Lumina-Next")
    parts.path("core.gvp", "lumina_core.flow.path:GVP", "sine and cosine, constant variance")
    parts.path("core.vp", "lumina_core.flow.path:VP", "variance-preserving diffusion, time turned round")
    parts.times("core.uniform", "lumina_core.flow.times:Uniform", "draw: every time alike")
    parts.times("core.logit_normal", "lumina_core.flow.times:LogitNormal", "draw: more in the middle")
    parts.times("core.shifted", "lumina_core.flow.times:Shifted", "draw: more towards data")
    parts.times("core.within", "lumina_core.flow.times:Within", "draw: another one within an interval")
    parts.times("core.uniform_grid", "lumina_core.flow.times:UniformGrid", "grid: equal steps")
    parts.times("core.shift_grid", "lumina_core.flow.times:ShiftGrid", "grid: the rational shift, finer near noise")
    parts.times("core.diffusers_grid", "lumina_core.flow.diffusers_grid:DiffusersGrid", "grid: as diffusers steps")
    parts.times("core.rational_grid", "lumina_core.flow.times:ShiftGrid", "grid: the same by the paper's name")
    parts.times("core.sigmoid_grid", "lumina_core.flow.grids:SigmoidGrid", "grid: the paper's piecewise sigmoid")
    parts.times(
        "core.fitted_grid", "lumina_core.flow.grids:FittedGrid", "grid: measured on the model, kept in its folder"
    )
    parts.times("core.given_grid", "lumina_core.flow.times:GivenGrid", "grid: exactly the given times")
    parts.solver("core.euler", "lumina_core.flow.solver:euler", "first order, one evaluation a step")
    parts.solver("core.midpoint", "lumina_core.flow.solver:midpoint", "second order, two evaluations")
    parts.solver("core.heun", "lumina_core.flow.solver:heun", "second order, two evaluations")
    parts.solver("core.rk4", "lumina_core.flow.solver:rk4", "fourth order, four evaluations")
    parts.solver("core.rk4_38", "lumina_core.flow.solver:rk4_three_eighths", "fourth order, Kutta's 3/8 rule")
    parts.solver("core.heun3", "lumina_core.flow.solver:heun3", "third order, three evaluations")
    parts.solver(
        "core.adams",
        "lumina_core.flow.multistep:AdamsBashforth",
        "second order, one evaluation: two velocities remembered",
    )
    parts.solver("core.dpmpp", "lumina_core.flow.multistep:DPMpp", "DPM-Solver++(2M), one evaluation, the linear path")
    parts.solver(
        "core.dopri5", "lumina_core.flow.adaptive:Adaptive", "fifth order, chooses its own steps by tolerances"
    )
    parts.solver("core.sde", "lumina_core.flow.stochastic:Stochastic", "stirs noise in: Euler-Maruyama or Heun")
    parts.guidance("core.guided", "lumina_core.flow.guidance:guided", "classifier-free guidance")
    _extrapolation(parts)


def _extrapolation(parts: Parts) -> None:
    """Rotary frequencies beyond the trained size."""
    here = "lumina_core.nn.extrapolation"
    parts.extrapolation("core.none", f"{here}:Untouched", "the trained frequencies")
    parts.extrapolation("core.interpolation", f"{here}:Interpolation", "positions pressed into the trained length")
    parts.extrapolation("core.ntk", f"{here}:NTK", "a larger base: low frequencies are interpolated, high ones stay")
    parts.extrapolation(
        "core.frequency_aware", f"{here}:FrequencyAware", "the paper's, by the wave of the trained side"
    )
    parts.extrapolation(
        "core.time_aware", f"{here}:TimeAware", "the paper's default: interpolation at noise, NTK at data"
    )
    parts.extrapolation("core.watershed", f"{here}:Watershed", "the published switch from interpolation to NTK")
    parts.extrapolation("core.yarn", f"{here}:YaRN", "NTK by parts, with sharper attention")
    parts.step_cache(
        "core.residual", "lumina_core.nn.step_cache:Residual", "as TeaCache: what the blocks added is added again"
    )
    parts.context_drop(
        "core.time_aware",
        "lumina_core.nn.context_drop:TimeAwareDrop",
        "the paper's: keys and values averaged over space, less and less",
    )
    parts.extrapolation("core.dype", f"{here}:DyPE", "strong at noise, gone at data")
