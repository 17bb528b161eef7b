"""Contract checks of flow matching and sampling: path, times, solver, guidance, objective, position scaling, caches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lumina_core.errors import LuminaError
from lumina_core.flow.schedules import uniform_times
from lumina_core.flow.solvers import integrate
from lumina_core.protocols import (
    BlockCache,
    ContextDrop,
    Coupling,
    Guidance,
    Objective,
    PositionEncoding,
    ProbPath,
    RopeScaling,
    Solver,
    SupportsAutoencoderLoss,
    TimeSampler,
    TimeSchedule,
)
from lumina_core.testing._contract import (
    Contract,
    ViolationError,
    expect,
    expect_close,
    expect_equal,
    expect_tensor,
    expect_unchanged,
    generators,
    randn,
    reseed_globals,
)
from lumina_core.testing._networks import PADDING_VALUE, variable_length_tokens
from lumina_core.testing._tiny_model import check_in_model
from lumina_core.types import Batch, Condition, Loss, RopeContext, Tokens, stack_tokens

NUM_SAMPLES = 64
"""Number of sampled times."""
TEST_TIMES = (0.0, 0.3, 1.0)
TOKEN_DIM = 4


def check_coupling(coupling: Coupling) -> None:
    """Check every clause of `Coupling`.

    Raises:
        ContractError: a clause is violated.
    """
    contract = Contract("Coupling", coupling)
    for name, tokens in (
        ("items of one size", Tokens(randn(5, 4, 3), torch.zeros(5, 4, 3), ((4,),) * 5)),
        ("items of several sizes", stack_tokens(variable_length_tokens(3))),
    ):
        noise = randn(*tokens.values.shape, seed=1)
        if tokens.mask is not None:
            noise = noise.masked_fill(~tokens.mask[..., None], 0.0)
        original = noise.clone()
        with contract.clause(f"coupling(noise, tokens) returns noise of the same shape and dtype ({name})"):
            coupled = coupling(noise, tokens)
            expect_tensor(coupled, tuple(noise.shape), "the coupled noise")
            expect(coupled.dtype == noise.dtype, f"{coupled.dtype} instead of {noise.dtype}")
            expect_equal(noise, original, "the argument noise")
        with contract.clause(f"it is a permutation of the noise, and padding stays zero ({name})"):
            expect_equal(coupled.flatten().sort().values, noise.flatten().sort().values, "the sorted values")
            if tokens.mask is not None:
                expect(not bool(coupled[~tokens.mask].any()), "padding that is not zero")
        with contract.clause(f"it is deterministic ({name})"):
            expect_equal(coupling(noise, tokens), coupled, "the second result")


def check_path(path: ProbPath) -> None:
    """Check every clause of `ProbPath`: its ends, and each derivative against a finite difference.

    Raises:
        ContractError: a clause is violated.
    """
    contract = Contract("ProbPath", path)
    interior, ends = torch.linspace(0.02, 0.98, 49, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    curves = {"alpha": path.alpha, "sigma": path.sigma, "d_alpha": path.d_alpha, "d_sigma": path.d_sigma}
    with contract.clause("each function keeps shape and dtype of the times and is finite between the ends"):
        for name, curve in curves.items():
            expect_tensor(curve(interior.view(7, 7)), (7, 7), name)
            expect_tensor(curve(interior.float()), (49,), f"{name} of float32", torch.float32)
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
    """Check every clause of `TimeSchedule`.

    Args:
        schedule: the schedule.
        steps: numbers of steps to check; those refused with a ConfigError are skipped, but not all may be refused.

    Raises:
        ContractError: a clause is violated.
    """
    contract = Contract("TimeSchedule", schedule)
    schedules: dict[int, Tensor] = {}
    with contract.clause("it returns (steps + 1,) float64 on the CPU"):
        for count in steps:
            try:
                schedules[count] = schedule(count)
            except LuminaError:
                continue
            expect_tensor(schedules[count], (count + 1,), f"the schedule of {count} steps", torch.float64)
            expect(schedules[count].device.type == "cpu", f"a schedule on {schedules[count].device}")
        expect(schedules, f"none of {list(steps)} steps is possible")
    with contract.clause("times from exactly 0 to exactly 1"):
        for count, times in schedules.items():
            first, last = float(times[0]), float(times[-1])
            expect(first == 0 and last == 1, f"{count} steps from {first} to {last!r}")
    with contract.clause("times rise at every step"):
        for count, times in schedules.items():
            expect(bool((times.diff() > 0).all()), f"{count} steps that do not rise")
    with contract.clause("the same number of steps gives the same schedule"):
        for count, times in schedules.items():
            expect_equal(schedule(count), times, f"the schedule of {count} steps the second time")
    with contract.clause("0 steps raise a ConfigError"):
        _expect_error(lambda: schedule(0))
    count = min(schedules, key=lambda steps: abs(steps - 2))
    check_in_model(contract, data=randn(3, 2, 6), schedule=schedule, steps=count)


def _expect_error(call: Callable[[], object]) -> None:
    try:
        got = call()
    except LuminaError:
        return
    raise ViolationError(f"{got!r:.60}")


def check_time_sampler(time_sampler: TimeSampler) -> None:
    """Check every clause of `TimeSampler`.

    Raises:
        ContractError: a clause is violated.
    """
    contract = Contract("TimeSampler", time_sampler)
    with contract.clause("it returns (B,) floating numbers in 0..1, one per generator"):
        times = time_sampler(generators(NUM_SAMPLES))
        expect_tensor(times, (NUM_SAMPLES,), "the times")
        low, high = float(times.min()), float(times.max())
        expect(times.is_floating_point() and low >= 0 and high <= 1, f"{times.dtype} from {low:.3g} to {high:.3g}")
    with contract.clause("the time of an item depends on its own generator alone"), reseed_globals(5):
        for item in range(3):
            single = time_sampler(generators(1, seed=item))
            expect_equal(single, times[item : item + 1], f"the time of generator {item} alone")
    with contract.clause("different generators draw different times"):
        distinct = len(set(times.tolist()))
        expect(distinct > NUM_SAMPLES // 2, f"{distinct} different times of {NUM_SAMPLES}")
    check_in_model(contract, data=randn(3, 2, 6), time_sampler=time_sampler)


def check_guidance(guidance: Guidance) -> None:
    """Check every clause of `Guidance`: a plain function of two velocities and a scale.

    Raises:
        ContractError: a clause is violated.
    """
    contract, cond, uncond = Contract("Guidance", guidance), randn(3, 5, 2, seed=1), randn(3, 5, 2, seed=2)
    with contract.clause("guidance(cond, uncond, scale) returns a finite velocity of the same shape and dtype"):
        with expect_unchanged(cond=cond, uncond=uncond):
            guided = guidance(cond, uncond, 3.0)
        expect_tensor(guided, (3, 5, 2), "the velocity", cond.dtype)
        expect_tensor(guidance(cond.double(), uncond.double(), 3.0), (3, 5, 2), "the velocity", torch.float64)
    with contract.clause("a scale of 1 is exactly the conditional velocity"):
        expect_equal(guidance(cond, uncond, 1.0), cond, "the velocity")
    with contract.clause("two equal velocities are not changed"):
        expect_close(guidance(cond, cond.clone(), 3.0), cond, "the velocity", tolerance=1e-5)
    with contract.clause("it has no state: the same arguments give the same result"):
        guidance(uncond, cond, 5.0)
        expect_equal(guidance(cond, uncond, 3.0), guided, "the second result")
    with contract.clause("a batch of n is n singles"):
        expect_close(guidance(cond[1:2], uncond[1:2], 3.0), guided[1:2], "an item alone", tolerance=1e-5)
    check_in_model(contract, data=randn(3, 2, 6), guidance=guidance)


def measured_order(solver: Any, steps: int = 16) -> float:
    """Measure by which power of the step the error falls when steps are halved, on a spiral and a logistic curve."""
    errors = [_solver_error(solver, steps * factor) for factor in (1, 2)]
    return math.inf if errors[1] < 1e-13 else math.log2(errors[0] / errors[1])


def _solver_error(solver: Any, steps: int) -> float:
    start = torch.tensor([[1.0, 0.0, 0.2]], dtype=torch.float64)
    got = integrate(_spiral, start, uniform_times(steps), solver, sample_noise=lambda: torch.zeros_like(start)).values
    # angle and logistic time are both t + t^2 / 2, and 1.5 at the end
    odds = 0.25 * math.exp(1.5)
    expected = torch.tensor([math.cos(1.5), math.sin(1.5), odds / (1 + odds)], dtype=torch.float64)
    return float((got[0] - expected).abs().max())


def _spiral(x: Tensor, t: float) -> Tensor:
    across, up, logistic = x[:, 0:1], x[:, 1:2], x[:, 2:3]
    return (1 + t) * torch.cat([-up, across, logistic * (1 - logistic)], dim=1)


def _sine_velocity(x: Tensor, t: float) -> Tensor:
    return torch.sin(3 * x) + t


def _constant_velocity(x: Tensor, t: float) -> Tensor:
    return torch.full_like(x, 2.0)


def check_solver(solver: Any, order: int | None = None) -> None:
    """Check every clause of `SolverStep`: a plain function from one time to the next, without state.

    A solver with a state (`step`) or with its own steps (`solve`) is checked by integration, see `flow.solvers`.

    Args:
        solver: the solver.
        order: claimed order, which is measured; None: at least 1.

    Raises:
        ContractError: a clause is violated.
    """
    contract = Contract("SolverStep", solver)
    if isinstance(solver, Solver):
        has_order = _check_integration(contract, solver)
    else:
        _check_step_function(contract, solver)
        has_order = True
    if has_order:
        with contract.clause(f"halving the step divides the error by two to the order ({order or 'at least 1'})"):
            measured = measured_order(solver)
            low, high = (0.8, math.inf) if order is None else (order - 0.3, order + 0.7)
            expect(low < measured < high or measured == high, f"an order of {measured:.2f}")
    check_in_model(contract, data=randn(3, 2, 6), solver=solver)


def _check_integration(contract: Contract, solver: Any) -> bool:
    """Check integrations along a schedule, and return whether the order can be measured: fixed steps, no noise."""
    schedule, x, adaptive = uniform_times(6), randn(3, 4, 2).double(), solver.adaptive

    def run(x: Tensor, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        noise = [torch.randn((3, 4, 2), generator=generator, dtype=torch.float64) for _ in range(40)]
        return integrate(_sine_velocity, x, schedule, solver, sample_noise=lambda: noise.pop()[: len(x)]).values

    with contract.clause("it carries x along the schedule, with x's shape and dtype, and leaves x unchanged"):
        with expect_unchanged(x=x):
            got = run(x)
        expect_tensor(got, tuple(x.shape), "the result", x.dtype)
    with contract.clause("its state belongs to one integration: the same one again, after another, gives the same"):
        run(x + 1)
        expect_equal(run(x), got, "the second result")
    with contract.clause("a batch of n is n singles (within its tolerances, if it chooses its own steps)"):
        expect_close(run(x[:1]), got[:1], "an item alone", tolerance=1e-2 if adaptive else 1e-9)
    if adaptive:
        with contract.clause("one that chooses its own steps has an error below 0.01"):
            expect(_solver_error(solver, 1) < 0.01, f"an error of {_solver_error(solver, 1):.3g}")
        return False
    return torch.equal(run(x, seed=1), got)


def _check_step_function(contract: Contract, solver: Any) -> None:
    t, u = 0.25, 0.5
    x = randn(3, 4, 2).double()
    times: list[float] = []

    def velocity(x: Tensor, time: float) -> Tensor:
        times.append(time)
        return _sine_velocity(x, time)

    with contract.clause("step(velocity, x, t, u) returns x at u, with x's shape and dtype, and leaves x unchanged"):
        with expect_unchanged(x=x):
            got = solver(velocity, x, t, u)
        expect_tensor(got, tuple(x.shape), "the result", x.dtype)
    with contract.clause("it evaluates the velocity between t and u, at times that are Python floats"):
        expect(all(type(time) is float for time in times), f"times of type {type(times[0]).__name__}")
        expect(times and min(times) >= 0.25 and max(times) <= 0.5, f"evaluations at {times} for 0.25 to 0.5")
    with contract.clause("it has no state: the same step again, after another, gives the same"):
        solver(_constant_velocity, x + 1, t, u)
        expect_equal(solver(velocity, x, t, u), got, "the second result")
    with contract.clause("a constant velocity is followed exactly: x + (u - t) v"):
        expect_close(solver(_constant_velocity, x, t, u), x + 0.25 * 2, "the result", tolerance=1e-12)
        expect_tensor(solver(_constant_velocity, x.float(), t, u), (3, 4, 2), "the result", torch.float32)
    with contract.clause("a batch of n is n singles"):
        expect_close(solver(velocity, x[1:2], t, u), got[1:2], "an item alone", tolerance=1e-12)


class _RecordingNetwork(nn.Module):
    """Network of one matrix that records its inputs, and outputs a constant under the mask."""

    def __init__(self, padding_output: float = 0.0, is_pooled: bool = False) -> None:
        super().__init__()
        self.matrix = nn.Parameter(randn(TOKEN_DIM, TOKEN_DIM, seed=3))
        self.inputs: list[Tensor] = []
        self._padding_output, self._is_pooled = padding_output, is_pooled

    def forward(self, tokens: Tokens, t: Tensor | None, condition: Condition) -> Tensor:
        self.inputs.append(tokens.values)
        output = tokens.values @ self.matrix
        if self._is_pooled:
            return output.mean(dim=1)
        return output if tokens.mask is None else output.masked_fill(~tokens.mask[..., None], self._padding_output)


class _FakeAutoencoder:
    """As much of an autoencoder as an objective of autoencoders needs."""

    def loss(self, data: Tensor, generators: Sequence[torch.Generator]) -> Loss:
        return Loss(data.square().mean())


def check_objective(objective: Objective) -> None:
    """Check every clause of `Objective`.

    One of autoencoders (`SupportsAutoencoderLoss`) is checked for that alone. One that raises a LuminaError without a
    target is checked with class indices and logits (B, K). One that generates nothing refuses `velocity` with a
    LuminaError.

    Raises:
        ContractError: a clause is violated.
    """
    contract = Contract("Objective", objective)
    if isinstance(objective, SupportsAutoencoderLoss):
        with contract.clause("autoencoder_loss(autoencoder, data, generators) returns the autoencoder's own loss"):
            loss = objective.autoencoder_loss(_FakeAutoencoder(), randn(3, 2, 6), generators(3))
            expect(isinstance(loss, Loss), f"{type(loss).__name__} instead of Loss")
            expect_tensor(loss.total, (), "total")
        return
    batch = Batch(Tokens(randn(3, 5, TOKEN_DIM), torch.zeros(3, 5, 3), ((5,),) * 3), Condition())
    if _needs_target(objective, batch):
        _check_loss(contract, objective, replace(batch, target=torch.tensor([0, 2, 1])))
    else:
        _check_loss(contract, objective, batch)
        _check_mask(contract, objective)
    prediction, x, time = randn(3, 5, TOKEN_DIM), randn(3, 5, TOKEN_DIM, seed=4), torch.tensor([0.1, 0.5, 0.9])
    with contract.clause(
        "velocity(prediction, x, t) returns (B, N, D), each item on its own (or raises a LuminaError)"
    ):
        try:
            velocity = objective.velocity(prediction, x, time)
        except LuminaError:
            return
        expect_tensor(velocity, (3, 5, TOKEN_DIM), "the velocity")
        single = objective.velocity(prediction[1:2], x[1:2], time[1:2])
        expect_close(single, velocity[1:2], "the velocity of an item alone")
    check_in_model(contract, data=randn(3, 2, 6), objective=objective)


def _needs_target(objective: Objective, batch: Batch) -> bool:
    try:
        objective.loss(_RecordingNetwork(), batch, generators(3))
    except LuminaError:
        return True
    except Exception:  # a violated clause, which the checks report
        return False
    return False


def _check_loss(contract: Contract, objective: Objective, batch: Batch) -> None:
    is_pooled = batch.target is not None
    with contract.clause("loss(predict, batch, generators) returns a finite number, and terms without gradient"):
        network = _RecordingNetwork(is_pooled=is_pooled)
        loss = objective.loss(network, batch, generators(3))
        expect(isinstance(loss, Loss), f"{type(loss).__name__} instead of Loss")
        expect_tensor(loss.total, (), "total")
        with_grad = [name for name, term in loss.terms.items() if term.requires_grad]
        expect(not with_grad, f"terms with a gradient: {', '.join(with_grad)}")
    with contract.clause("its gradient reaches the network"):
        loss.total.backward()
        gradient = network.matrix.grad
        expect_tensor(gradient, (TOKEN_DIM, TOKEN_DIM), "the gradient")
        expect(gradient is not None and gradient.any(), "a gradient of zero")
    with contract.clause("all random numbers come from the generators"), reseed_globals(5):
        second = objective.loss(_RecordingNetwork(is_pooled=is_pooled), batch, generators(3))
        expect_equal(second.total, loss.total, "the second loss")
    with contract.clause("the random numbers of an item come from its own generator, not from those of others"):
        single = _RecordingNetwork(is_pooled=is_pooled)
        target = None if batch.target is None else batch.target[:1]
        objective.loss(single, Batch(batch.tokens.items()[0], Condition(), target), generators(1))
        for batched, alone in zip(network.inputs, single.inputs, strict=True):
            expect_close(batched[:1], alone, "the network's input for the first item alone", tolerance=1e-6)


def _check_mask(contract: Contract, objective: Objective) -> None:
    batch = Batch(stack_tokens(variable_length_tokens(TOKEN_DIM)), Condition())
    with contract.clause("outputs under a False mask have no loss (or masked tokens raise a LuminaError)"):
        try:
            loss = objective.loss(_RecordingNetwork(), batch, generators(3)).total
        except LuminaError:
            return
        other = objective.loss(_RecordingNetwork(padding_output=PADDING_VALUE), batch, generators(3)).total
        expect_close(other, loss, "the loss with other outputs under the mask", tolerance=1e-6)
    with contract.clause("padding never leaks: the network's input for an item is the same in a longer batch"):
        batched, single, item = _RecordingNetwork(), _RecordingNetwork(), batch.tokens.items()[1]
        objective.loss(batched, batch, generators(3))
        objective.loss(single, Batch(item, Condition()), generators(1, seed=1))
        for values, alone in zip(batched.inputs, single.inputs, strict=True):
            expect_close(values[1:2, : item.values.shape[1]], alone, "the input for the shorter item", tolerance=1e-6)


def check_rope_scaling(rope_scaling: RopeScaling) -> None:
    """Check every clause of `RopeScaling`.

    Raises:
        ContractError: a clause is violated.
    """
    contract = Contract("RopeScaling", rope_scaling)
    freqs = [10000.0 ** -(torch.arange(4, dtype=torch.float64) / 4) for _ in range(3)]
    same, larger = (
        RopeContext((1.0, 16.0 * scale, 16.0 * scale), (1.0, 16.0, 16.0), 10000.0, 24) for scale in (1.0, 2.0)
    )
    with contract.clause("time_dependent is a bool; train_size is the data size of training, or None"):
        expect(isinstance(rope_scaling.time_dependent, bool), f"time_dependent {rope_scaling.time_dependent!r}")
        expect(isinstance(rope_scaling.train_size, tuple | None), f"train_size {rope_scaling.train_size!r}")
    with contract.clause("it returns frequencies (float64) of each axis, in the shape of the trained ones, unchanged"):
        for time in TEST_TIMES:
            with expect_unchanged(**{f"freqs[{axis}]": freq for axis, freq in enumerate(freqs)}):
                scaled = rope_scaling(freqs, larger, time)
            expect(len(scaled) == len(freqs), f"frequencies of {len(scaled)} axes instead of {len(freqs)}")
            for freq, scaled_freq in zip(freqs, scaled, strict=True):
                expect_tensor(scaled_freq, tuple(freq.shape), "the frequencies of an axis", torch.float64)
    with contract.clause("at the size of training the frequencies are the trained ones"):
        for time in TEST_TIMES:
            for got, freq in zip(rope_scaling(freqs, same, time), freqs, strict=True):
                expect_close(got, freq, f"a frequency at time {time}", tolerance=1e-9)
    with contract.clause("at a larger size no frequency is higher, and all are positive"):
        for time in TEST_TIMES:
            for got, freq in zip(rope_scaling(freqs, larger, time), freqs, strict=True):
                expect(bool(((got > 0) & (got <= freq * (1 + 1e-9))).all()), f"{got.tolist()} at time {time}")
    with contract.clause("it depends on the time only if `time_dependent` is true, and has no state"):
        first = rope_scaling(freqs, larger, TEST_TIMES[0])
        second = rope_scaling(freqs, larger, TEST_TIMES[0] if rope_scaling.time_dependent else TEST_TIMES[2])
        for got, freq in zip(second, first, strict=True):
            expect_close(got, freq, "a frequency", tolerance=0)
    check_in_model(contract, data=randn(3, 2, 6), rope_scaling=rope_scaling)


def check_position_encoding(encoding: PositionEncoding, num_layers: int = 2) -> None:
    """Check every clause of `PositionEncoding`.

    Args:
        encoding: built for heads of 8 channels and 2 key heads.
        num_layers: number of blocks that it was built for.

    Raises:
        ContractError: a clause is violated.
    """
    contract, heads = Contract("PositionEncoding", encoding), randn(3, 5, 2, 8)
    positions = torch.stack([torch.zeros(15), torch.arange(15) // 4, torch.arange(15) % 4], dim=-1).view(3, 5, 3)
    with contract.clause("frequencies() returns those of the three axes"):
        freqs = encoding.frequencies()
        expect(len(freqs) == 3, f"frequencies of {len(freqs)} axes")
    with contract.clause("it returns one transform for all blocks, or one per block"):
        transforms = encoding(positions, freqs)
        expect(len(transforms) in (1, num_layers), f"{len(transforms)} transforms for {num_layers} blocks")
    with contract.clause("queries, keys, values and outputs keep shape and dtype"):
        for transform in transforms:
            for apply in (transform.query, transform.key, transform.value, transform.output):
                expect_tensor(apply(heads), tuple(heads.shape), "the transformed heads")
                expect_tensor(apply(heads.bfloat16()), tuple(heads.shape), "the transformed heads", torch.bfloat16)
    with contract.clause("a batch of n is n singles"):
        for item in range(3):
            rows = slice(item, item + 1)
            single = encoding(positions[rows], freqs)[-1].key(heads[rows])
            expect_close(single, transforms[-1].key(heads)[rows], f"item {item} alone")
    with contract.clause("positions matter: scores between two tokens change with the distance of the tokens"):
        scores, others = (
            transform.query(heads).flatten(2) @ transform.key(heads).flatten(2).mT
            for transform in (transforms[0], encoding(positions * 2, freqs)[0])
        )
        expect(not torch.allclose(scores, others, atol=1e-4), "scores do not change")


def check_context_drop(context_drop: ContextDrop) -> None:
    """Check every clause of `ContextDrop`.

    Raises:
        ContractError: a clause is violated.
    """
    contract = Contract("ContextDrop", context_drop)
    with contract.clause("window holds the number of positions averaged along each of the three axes, at least 1"):
        window = context_drop.window
        expect(len(window) == 3 and all(isinstance(size, int) and size > 0 for size in window), f"{window!r}")
    with contract.clause("dropped_blocks(num_layers, t) returns a bool per block, always the same"):
        for depth in (1, 2, 7):
            for time in TEST_TIMES:
                dropped = context_drop.dropped_blocks(depth, time)
                is_valid = isinstance(dropped, tuple) and len(dropped) == depth
                expect(is_valid and all(isinstance(drop, bool) for drop in dropped), f"{dropped!r} for {depth} blocks")
                expect(context_drop.dropped_blocks(depth, time) == dropped, "another result the second time")
    check_in_model(contract, data=randn(3, 2, 6), context_drop=context_drop)


def check_block_cache(block_cache: BlockCache) -> None:
    """Check every clause of `BlockCache`.

    Raises:
        ContractError: a clause is violated.
    """
    contract = Contract("BlockCache", block_cache)
    change, num_skipped = torch.tensor([0.0, 0.02, 0.3, 7.0]), torch.tensor([0.0, 1.0, 2.0, 3.0])
    with contract.clause("should_recompute(change, num_skipped) returns a bool per row, always the same"):
        recompute = block_cache.should_recompute(change, num_skipped)
        expect_tensor(recompute, (4,), "the result", torch.bool)
        expect_equal(block_cache.should_recompute(change, num_skipped), recompute, "the second result")
    with contract.clause("each row depends on its own numbers alone"):
        rows = [block_cache.should_recompute(change[n : n + 1], num_skipped[n : n + 1]) for n in range(4)]
        expect_equal(torch.cat(rows), recompute, "the result of single rows")
    check_in_model(contract, data=randn(3, 2, 6), block_cache=block_cache)
