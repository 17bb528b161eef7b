"""Checks of the mathematics of the flow: path, times and guidance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lumina_core.errors import LuminaError
from lumina_core.flow.schedules import uniform_times
from lumina_core.flow.solvers import integrate
from lumina_core.protocols import (
    BlockCache,
    ContextDrop,
    Guidance,
    Objective,
    PositionEncoding,
    ProbPath,
    RopeScaling,
    TimeSampler,
    TimeSchedule,
)
from lumina_core.testing._contract import (
    Contract,
    ViolationError,
    expect,
    expect_close,
    expect_equal,
    expect_finite,
    expect_shape,
    generators,
    randn,
    reseed_globals,
)
from lumina_core.testing._networks import PADDING_VALUE, variable_length_tokens
from lumina_core.testing._tiny_model import check_in_model
from lumina_core.types import Batch, Condition, Loss, RopeContext, Tokens, stack_tokens

NUM_SAMPLES = 64
"""Times that are drawn to look at."""


def check_path(path: ProbPath) -> None:
    """Try every line of the contract `ProbPath`: its ends, and each slope against the difference quotient.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("ProbPath", path)
    interior, ends = torch.linspace(0.02, 0.98, 49, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    curves = {
        "alpha": path.alpha,
        "sigma": path.sigma,
        "d_alpha": path.d_alpha,
        "d_sigma": path.d_sigma,
    }
    with contract.clause("each curve keeps shape and type of the times and is finite between the ends"):
        for name, curve in curves.items():
            expect_shape(curve(interior.view(7, 7)), (7, 7), name)
            expect(
                curve(interior.float()).dtype == torch.float32, f"{name} of float32 is {curve(interior.float()).dtype}"
            )
            expect_finite(curve(interior), name)
    with contract.clause("t = 0 is noise, t = 1 is data: sigma falls from 1 to 0, alpha rises from 0 to 1"):
        expect_close(path.alpha(ends), ends, "alpha at the ends", tolerance=0.02)
        expect_close(path.sigma(ends), 1 - ends, "sigma at the ends", tolerance=0.02)
        expect(bool((path.alpha(interior).diff() > 0).all()), "an alpha that does not rise everywhere")
        expect(bool((path.sigma(interior).diff() < 0).all()), "a sigma that does not fall everywhere")
    with contract.clause("d_alpha and d_sigma are the derivatives"):
        for name in ("alpha", "sigma"):
            finite_difference = (curves[name](interior + 1e-6) - curves[name](interior - 1e-6)) / 2e-6
            expect_close(curves[f"d_{name}"](interior), finite_difference, f"d_{name}", tolerance=1e-5)
    check_in_model(contract, data=randn(3, 2, 6), path=path)


def check_schedule(schedule: TimeSchedule, steps: Sequence[int] = (1, 2, 7, 30)) -> None:
    """Try every line of the contract `TimeSchedule`.

    Args:
        steps: step counts to try; counts refused with a ConfigError are skipped, but not all may be refused.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("TimeSchedule", schedule)
    schedules: dict[int, Tensor] = {}
    with contract.clause("it gives (steps + 1,) float64 on the CPU"):
        for num_steps in steps:
            try:
                schedules[num_steps] = schedule(num_steps)
            except LuminaError:
                continue
            expect_shape(schedules[num_steps], (num_steps + 1,), f"the schedule of {num_steps} steps")
            expect(schedules[num_steps].dtype == torch.float64, f"{schedules[num_steps].dtype} instead of float64")
            expect(schedules[num_steps].device.type == "cpu", f"a schedule on {schedules[num_steps].device}")
        expect(schedules, f"none of {list(steps)} steps is possible")
    with contract.clause("from exactly 0 to exactly 1"):
        for num_steps, times in schedules.items():
            expect(
                float(times[0]) == 0 and float(times[-1]) == 1,
                f"{num_steps} steps from {float(times[0])} to {float(times[-1])!r}",
            )
    with contract.clause("it rises at every step"):
        for num_steps, times in schedules.items():
            expect(bool((times.diff() > 0).all()), f"with {num_steps} steps it does not")
    with contract.clause("the same number of steps gives the same schedule"):
        for num_steps, times in schedules.items():
            expect_equal(schedule(num_steps), times, f"the schedule of {num_steps} steps the second time")
    with contract.clause("no step at all is refused in words (a ConfigError)"):
        _expect_error(lambda: schedule(0))
    num_steps = min(schedules, key=lambda steps: abs(steps - 2))
    check_in_model(contract, data=randn(3, 2, 6), schedule=schedule, steps=num_steps)


def _expect_error(call: Callable[[], object]) -> None:
    try:
        got = call()
    except LuminaError:
        return
    raise ViolationError(f"it gave {got!r:.60}")


def check_time_sampler(time_sampler: TimeSampler) -> None:
    """Try every line of the contract `TimeSampler`.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("TimeSampler", time_sampler)
    with contract.clause("it gives (B,) floating numbers in 0..1, one generator an item"):
        times = time_sampler(generators(NUM_SAMPLES))
        expect_shape(times, (NUM_SAMPLES,), "the times")
        expect(times.is_floating_point(), f"times are {times.dtype}")
        expect(
            bool(((times >= 0) & (times <= 1)).all()),
            f"times from {float(times.min()):.3g} to {float(times.max()):.3g}",
        )
    with contract.clause("a sample's time depends on its own generator alone"), reseed_globals(5):
        for item in range(3):
            expect_equal(
                time_sampler(generators(1, seed=item)), times[item : item + 1], f"the time of generator {item} alone"
            )
    with contract.clause("different generators draw different times"):
        expect(
            len(set(times.tolist())) > NUM_SAMPLES // 2, f"{len(set(times.tolist()))} different times of {NUM_SAMPLES}"
        )
    check_in_model(contract, data=randn(3, 2, 6), time_sampler=time_sampler)


def check_guidance(guidance: Guidance) -> None:
    """Try every line of the contract `Guidance`: a plain function of two velocities and a scale.

    Raises:
        ContractError: a line is broken.
    """
    contract, cond, uncond = Contract("Guidance", guidance), randn(3, 5, 2, seed=1), randn(3, 5, 2, seed=2)
    with contract.clause("guidance(cond, uncond, scale) gives a velocity of their shape and type, finite"):
        copies = cond.clone(), uncond.clone()
        guided = guidance(cond, uncond, 3.0)
        expect_shape(guided, (3, 5, 2), "what it gives")
        expect_finite(guided, "what it gives")
        expect_equal(cond, copies[0], "the conditional velocity that was handed over")
        expect_equal(uncond, copies[1], "the unconditional velocity that was handed over")
        expect(guidance(cond.double(), uncond.double(), 3.0).dtype == torch.float64, "float64 does not stay float64")
    with contract.clause("a scale of 1 is exactly the conditional velocity"):
        expect_equal(guidance(cond, uncond, 1.0), cond, "what it gives")
    with contract.clause("where saying something changes nothing, neither does guidance"):
        expect_close(guidance(cond, cond.clone(), 3.0), cond, "what it gives of two equal velocities", tolerance=1e-5)
    with contract.clause("it has no state: the same again, after another, gives the same"):
        guidance(uncond, cond, 5.0)
        expect_equal(guidance(cond, uncond, 3.0), guided, "the second time")
    with contract.clause("a batch of n is n singles"):
        expect_close(guidance(cond[1:2], uncond[1:2], 3.0), guided[1:2], "an item alone", tolerance=1e-5)


def measured_order(solver: Any, steps: int = 16) -> float:
    """By which power of the step the error falls when steps are halved, on a spiral and a logistic curve."""
    errors = [_solver_error(solver, steps * factor) for factor in (1, 2)]
    return math.inf if errors[1] < 1e-13 else math.log2(errors[0] / errors[1])


def _solver_error(solver: Any, steps: int) -> float:
    start = torch.tensor([[1.0, 0.0, 0.2]], dtype=torch.float64)
    got = integrate(_spiral, start, uniform_times(steps), solver, sample_noise=lambda: torch.zeros_like(start)).values[
        0
    ]
    # angle and logistic time are both t + t^2 / 2, and 1.5 at the end
    odds = 0.25 * math.exp(1.5)
    expected = torch.tensor([math.cos(1.5), math.sin(1.5), odds / (1 + odds)], dtype=torch.float64)
    return float((got - expected).abs().max())


def _spiral(x: Tensor, t: Tensor) -> Tensor:
    speed = (1 + t)[:, None]
    across, up, logistic = x[:, 0:1], x[:, 1:2], x[:, 2:3]
    return speed * torch.cat([-up, across, logistic * (1 - logistic)], dim=1)


def check_solver(solver: Any, order: int | None = None) -> None:
    """Try every line of the contract `SolverStep`: a plain function from here to there, without state.

    One that remembers (`step`) or chooses its own steps (`solve`) is tried on whole ways; see `flow.solvers`.

    Args:
        order: the order it claims; it is measured. None: at least the first.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("SolverStep", solver)
    if hasattr(solver, "step") or hasattr(solver, "solve"):
        exact = _check_integration(contract, solver)
    else:
        _check_step_function(contract, solver)
        exact = True
    if exact:
        _check_order(contract, solver, order)
    check_in_model(contract, data=randn(3, 2, 6), solver=solver)


def _check_order(contract: Contract, solver: Any, order: int | None) -> None:
    with contract.clause(f"halving the step divides the error by two to the order ({order or 'at least 1'})"):
        measured = measured_order(solver)
        expect(measured > 0.8 if order is None else measured > order - 0.3, f"an order of {measured:.2f}")
        expect(order is None or measured < order + 0.7, f"an order of {measured:.2f}, more than it claims")


def _check_integration(contract: Contract, solver: Any) -> bool:
    """Whether its order can be measured: it takes the given steps, and no noise."""
    schedule, x, adaptive = uniform_times(6), randn(3, 4, 2).double(), hasattr(solver, "solve")

    def run(x: Tensor, seed: int = 0) -> Tensor:
        made = torch.Generator().manual_seed(seed)
        noise = [torch.randn((3, 4, 2), generator=made, dtype=torch.float64) for _ in range(40)]
        return integrate(_sine_velocity, x, schedule, solver, sample_noise=lambda: noise.pop()[: len(x)]).values

    with contract.clause("it carries x along the schedule, in x's shape and type, and leaves x as it was"):
        original, got = x.clone(), run(x)
        expect_equal(x, original, "the x that was handed over")
        expect_shape(got, tuple(x.shape), "what it gives")
        expect_finite(got, "what it gives")
        expect(got.dtype == x.dtype, f"{got.dtype} instead of {x.dtype}")
    with contract.clause("what it remembers it carries along: the same way again, after another, gives the same"):
        run(x + 1)
        expect_equal(run(x), got, "the second time")
    with contract.clause("a batch of n is n singles (as near as its tolerances, where it chooses its own steps)"):
        expect_close(run(x[:1]), got[:1], "an item alone", tolerance=1e-2 if adaptive else 1e-9)
    if adaptive:
        with contract.clause("one that chooses its own steps arrives where the velocity leads, within 0.01"):
            expect(_solver_error(solver, 1) < 0.01, f"an error of {_solver_error(solver, 1):.3g}")
        return False
    return torch.equal(run(x, seed=1), got)


def _sine_velocity(values: Tensor, t: Tensor) -> Tensor:
    return torch.sin(3 * values) + t.view(-1, 1, 1)


def _check_step_function(contract: Contract, solver: Any) -> None:
    t, u = torch.tensor(0.25, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    x = randn(3, 4, 2).double()
    times_called: list[Tensor] = []

    def velocity(values: Tensor, time: Tensor) -> Tensor:
        times_called.append(torch.as_tensor(time))
        return torch.sin(3 * values) + time

    with contract.clause("step(velocity, x, t, u) gives x at u, in x's shape and type, and leaves x as it was"):
        original = x.clone()
        got = solver(velocity, x, t, u)
        expect_equal(x, original, "the x that was handed over")
        expect_shape(got, tuple(x.shape), "what it gives")
        expect(got.dtype == x.dtype, f"{got.dtype} instead of {x.dtype}")
    with contract.clause("it asks for the velocity between t and u"):
        times = [float(time) for time in times_called]
        expect(times and min(times) >= 0.25 and max(times) <= 0.5, f"it asked at {times} between 0.25 and 0.5")
    with contract.clause("it has no state: the same step again, after another, gives the same"):
        solver(_constant_velocity, x + 1, t, u)
        expect_equal(solver(velocity, x, t, u), got, "the second time")
    with contract.clause("a constant velocity is followed exactly: x + (u - t) v"):
        expect_close(solver(_constant_velocity, x, t, u), x + 0.25 * 2, "what it gives", tolerance=1e-12)
        expect(solver(_constant_velocity, x.float(), t, u).dtype == torch.float32, "float32 does not stay float32")
    with contract.clause("a batch of n is n singles"):
        expect_close(solver(velocity, x[1:2], t, u), got[1:2], "an item alone", tolerance=1e-12)


def _constant_velocity(values: Tensor, t: Tensor) -> Tensor:
    return torch.full_like(values, 2.0)


TOKEN_DIM = 4


class _RecordingNetwork(nn.Module):
    """A network for the objective to teach: one matrix. Remembers what it was asked."""

    def __init__(self, padding_output: float = 0.0) -> None:
        super().__init__()
        self.matrix = nn.Parameter(randn(TOKEN_DIM, TOKEN_DIM, seed=3))
        self.calls: list[tuple[Tokens, Tensor | None]] = []
        self._padding_output = padding_output

    def forward(self, tokens: Tokens, t: Tensor | None, condition: Condition) -> Tensor:
        self.calls.append((tokens, t))
        output = tokens.values @ self.matrix
        return output if tokens.mask is None else output.masked_fill(~tokens.mask[..., None], self._padding_output)


def check_objective(objective: Objective) -> None:
    """Try every line of the contract `Objective`.

    One that compares data instead of tokens (it has `autoencoder_loss`) is only asked for that; one from which nothing can be
    generated refuses `velocity` with a LuminaError.

    Raises:
        ContractError: a line is broken.
    """
    contract, autoencoder_loss = Contract("Objective", objective), getattr(objective, "autoencoder_loss", None)
    if autoencoder_loss is not None:
        _check_autoencoder_loss(contract, autoencoder_loss)
        return
    batch = Batch(Tokens(randn(3, 5, TOKEN_DIM), torch.zeros(3, 5, 3), ((5,),) * 3), Condition())
    _check_loss(contract, objective, batch)
    _check_mask(contract, objective)
    if _check_velocity(contract, objective):
        check_in_model(contract, data=randn(3, 2, 6), objective=objective)


def _check_loss(contract: Contract, objective: Objective, batch: Batch) -> None:
    with contract.clause("loss(predict, batch, generators) gives a finite number and terms to log without gradient"):
        network = _RecordingNetwork()
        loss = objective.loss(network, batch, generators(3))
        expect(isinstance(loss, Loss), f"{type(loss).__name__} instead of Loss")
        expect_shape(loss.total, (), "total")
        expect_finite(loss.total, "total")
        with_grad = [name for name, term in loss.terms.items() if term.requires_grad]
        expect(not with_grad, f"terms that hold a gradient: {', '.join(with_grad)}")
    with contract.clause("its gradient reaches what predicts"):
        loss.total.backward()
        gradient = network.matrix.grad
        if gradient is None or not gradient.any():
            raise ViolationError("no gradient")
        expect_finite(gradient, "the gradient")
    with contract.clause("all chance comes from the generators: the same ones give the same loss"), reseed_globals(5):
        expect_equal(objective.loss(_RecordingNetwork(), batch, generators(3)).total, loss.total, "the loss")
    with contract.clause("what is drawn for an item depends on its own generator, not on its neighbours"):
        single_network, single_batch = _RecordingNetwork(), Batch(next(iter(batch.tokens.items())), Condition())
        objective.loss(single_network, single_batch, generators(1))
        for (batched, _), (single_tokens, _) in zip(network.calls, single_network.calls, strict=True):
            expect_close(
                batched.values[:1], single_tokens.values, "what is asked of the first item alone", tolerance=1e-6
            )


def _check_mask(contract: Contract, objective: Objective) -> None:
    batch = Batch(stack_tokens(variable_length_tokens(TOKEN_DIM)), Condition())
    with contract.clause(
        "the mask is kept: what is answered under it costs nothing (or masked tokens are refused in words)"
    ):
        try:
            loss = objective.loss(_RecordingNetwork(), batch, generators(3)).total
        except LuminaError:
            return
        other = objective.loss(_RecordingNetwork(padding_output=PADDING_VALUE), batch, generators(3)).total
        expect_close(other, loss, "the loss with other answers under the mask", tolerance=1e-6)
    with contract.clause("padding never leaks: an item is asked the same in a batch of longer ones as alone"):
        batch_network, item = _RecordingNetwork(), batch.tokens.items()[1]
        objective.loss(batch_network, batch, generators(3))
        single_network = _RecordingNetwork()
        objective.loss(single_network, Batch(item, Condition()), generators(1, seed=1))
        length = item.values.shape[1]
        for (batched, _), (single_tokens, _) in zip(batch_network.calls, single_network.calls, strict=True):
            expect_close(
                batched.values[1:2, :length], single_tokens.values, "what is asked of the shorter item", tolerance=1e-6
            )


def _check_velocity(contract: Contract, objective: Objective) -> bool:
    """Whether something can be generated by it."""
    prediction, x, time = randn(3, 5, TOKEN_DIM), randn(3, 5, TOKEN_DIM, seed=4), torch.tensor([0.1, 0.5, 0.9])
    with contract.clause("velocity(prediction, x, time) gives (B, N, D), an item's own (or is refused in words)"):
        try:
            got = objective.velocity(prediction, x, time)
        except LuminaError:
            return False
        expect_shape(got, (3, 5, TOKEN_DIM), "the velocity")
        expect_finite(got, "the velocity")
        expect_close(objective.velocity(prediction[1:2], x[1:2], time[1:2]), got[1:2], "an item's velocity alone")
    return True


def _check_autoencoder_loss(contract: Contract, autoencoder_loss: Any) -> None:
    with contract.clause(
        "autoencoder_loss(autoencoder, data, generators) gives the autoencoder's own loss, as it comes"
    ):
        loss = autoencoder_loss(_FakeAutoencoder(), randn(3, 2, 6), generators(3))
        expect(isinstance(loss, Loss), f"{type(loss).__name__} instead of Loss")
        expect_shape(loss.total, (), "total")
        expect_finite(loss.total, "total")


class _FakeAutoencoder:
    """As much of an autoencoder as an objective that rebuilds data needs."""

    def loss(self, data: Tensor, generators: Sequence[torch.Generator]) -> Loss:
        return Loss(data.square().mean())


def check_position_encoding(encoding: PositionEncoding, num_layers: int = 2) -> None:
    """Check every clause of the contract `PositionEncoding`.

    Args:
        encoding: built for heads of 8 channels and 2 key heads.
        num_layers: blocks that it was built for.

    Raises:
        ContractError: a clause is violated.
    """
    contract, heads = Contract("PositionEncoding", encoding), randn(3, 5, 2, 8)
    positions = torch.stack([torch.zeros(15), torch.arange(15) // 4, torch.arange(15) % 4], dim=-1).view(3, 5, 3)
    with contract.clause("frequencies() gives those of the three axes"):
        freqs = encoding.frequencies()
        expect(len(freqs) == 3, f"frequencies of {len(freqs)} axes")
    with contract.clause("it gives one transform for all blocks, or one per block"):
        transforms = encoding(positions, freqs)
        expect(len(transforms) in (1, num_layers), f"{len(transforms)} transforms for {num_layers} blocks")
    with contract.clause("queries, keys, values and outputs keep shape and dtype"):
        for transform in transforms:
            for apply in (transform.query, transform.key, transform.value, transform.output):
                expect_shape(apply(heads), tuple(heads.shape), "the transformed heads")
                expect_finite(apply(heads), "the transformed heads")
                expect(apply(heads.bfloat16()).dtype == torch.bfloat16, "bfloat16 heads change their dtype")
    with contract.clause("a batch of n is n singles"):
        for item in range(3):
            rows = slice(item, item + 1)
            single = encoding(positions[rows], freqs)[-1].key(heads[rows])
            expect_close(single, transforms[-1].key(heads)[rows], f"item {item} alone")
    with contract.clause("positions matter: scores between two tokens change with the distance of the tokens"):
        scores = [transform.query(heads).flatten(2) @ transform.key(heads).flatten(2).mT for transform in transforms]
        moved = encoding(positions * 2, freqs)
        others = [transform.query(heads).flatten(2) @ transform.key(heads).flatten(2).mT for transform in moved]
        expect(not torch.allclose(scores[0], others[0], atol=1e-4), "scores do not change")


TEST_TIMES = (0.0, 0.3, 1.0)


def check_rope_scaling(rope_scaling: RopeScaling) -> None:
    """Try every line of the contract `RopeScaling`.

    Raises:
        ContractError: a line is broken.
    """
    contract, freqs = Contract("RopeScaling", rope_scaling), _rope_freqs()
    small, large = _rope_context(1.0), _rope_context(2.0)
    with contract.clause("time_dependent says whether the time matters; train_size the sizes trained at, or None"):
        expect(isinstance(rope_scaling.time_dependent, bool), f"time_dependent is {rope_scaling.time_dependent!r}")
        expect(
            rope_scaling.train_size is None or isinstance(rope_scaling.train_size, tuple),
            f"{rope_scaling.train_size!r}",
        )
    with contract.clause("it gives frequencies (float64) for each axis, in the shape of the trained ones, which stay"):
        originals = [freq.clone() for freq in freqs]
        for time in TEST_TIMES:
            scaled = rope_scaling(freqs, large, time)
            expect(len(scaled) == len(freqs), f"frequencies of {len(scaled)} axes instead of {len(freqs)}")
            for freq, scaled_freq in zip(freqs, scaled, strict=True):
                expect_shape(scaled_freq, tuple(freq.shape), "the frequencies of an axis")
                expect(scaled_freq.dtype == torch.float64, f"{scaled_freq.dtype} instead of float64")
                expect_finite(scaled_freq, "the frequencies")
        for freq, before in zip(freqs, originals, strict=True):
            expect_equal(freq, before, "the frequencies that were handed over")
    with contract.clause("on the canvas of training the trained frequencies stay as they are"):
        for time in TEST_TIMES:
            _expect_freqs_close(rope_scaling(freqs, small, time), freqs, f"a frequency at time {time}")
    with contract.clause("a larger canvas turns nothing faster, and nothing backwards"):
        for time in TEST_TIMES:
            for freq, scaled_freq in zip(freqs, rope_scaling(freqs, large, time), strict=True):
                expect(
                    bool(((scaled_freq > 0) & (scaled_freq <= freq * (1 + 1e-9))).all()),
                    f"at time {time}: {scaled_freq.tolist()}",
                )
    with contract.clause("the time matters only where `time_dependent` says so, and no call remembers another"):
        first_call = rope_scaling(freqs, large, TEST_TIMES[0])
        second_call = rope_scaling(freqs, large, TEST_TIMES[0] if rope_scaling.time_dependent else TEST_TIMES[2])
        _expect_freqs_close(second_call, first_call, "a frequency", tolerance=0)
    check_in_model(contract, data=randn(3, 2, 6), rope_scaling=rope_scaling)


def _rope_freqs() -> list[Tensor]:
    exponents = torch.arange(4, dtype=torch.float64) / 4
    return [torch.pow(torch.tensor(10000.0, dtype=torch.float64), -exponents) for _ in range(3)]


def _rope_context(scale: float) -> RopeContext:
    return RopeContext((1.0, 16.0 * scale, 16.0 * scale), (1.0, 16.0, 16.0), 10000.0, 24)


def _expect_freqs_close(
    got: tuple[Tensor, ...], expected: list[Tensor] | tuple[Tensor, ...], what: str, tolerance: float = 1e-9
) -> None:
    for one, other in zip(got, expected, strict=True):
        expect_close(one, other, what, tolerance=tolerance)


def check_context_drop(context_drop: ContextDrop) -> None:
    """Try every line of the contract `ContextDrop`.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("ContextDrop", context_drop)
    with contract.clause("window says how many token pitches are averaged along each of the three axes, at least 1"):
        window = context_drop.window
        expect(len(window) == 3 and all(isinstance(size, int) and size > 0 for size in window), f"{window!r}")
    with contract.clause("dropped_blocks(num_layers, t) says of each block whether it averages, always the same"):
        for depth in (1, 2, 7):
            for time in TEST_TIMES:
                dropped = context_drop.dropped_blocks(depth, time)
                expect(isinstance(dropped, tuple) and len(dropped) == depth, f"{dropped!r} for {depth} blocks")
                expect(all(isinstance(one, bool) for one in dropped), f"{dropped!r} of {depth} blocks")
                expect(context_drop.dropped_blocks(depth, time) == dropped, "another answer the second time")
    check_in_model(contract, data=randn(3, 2, 6), context_drop=context_drop)


def check_block_cache(block_cache: BlockCache) -> None:
    """Try every line of the contract `BlockCache`.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("BlockCache", block_cache)
    change, num_skipped = torch.tensor([0.0, 0.02, 0.3, 7.0]), torch.tensor([0.0, 1.0, 2.0, 3.0])
    with contract.clause(
        "should_recompute(change, num_skipped) says of each row whether it is computed, bool, always the same"
    ):
        recompute = block_cache.should_recompute(change, num_skipped)
        expect_shape(recompute, (4,), "what it says")
        expect(recompute.dtype == torch.bool, f"{recompute.dtype} instead of bool")
        expect_equal(block_cache.should_recompute(change, num_skipped), recompute, "what it says the second time")
    with contract.clause("each row decides by its own numbers alone"):
        single_rows = [
            block_cache.should_recompute(change[row : row + 1], num_skipped[row : row + 1]) for row in range(4)
        ]
        expect_equal(torch.cat(single_rows), recompute, "what it says of single rows")
    check_in_model(contract, data=randn(3, 2, 6), block_cache=block_cache)
