"""Class factors: one number a class that scales a prediction until each class has the share it should have.

The prediction nearest to p among those with given class shares is p times one factor a class, normalised in each
pixel. Only k factors an image are unknown. So the pixels stay on their device, where every pass over them gives the
shares and their derivatives, and Newton's method on the k numbers runs on the host in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from uda.losses.class_ratio import Over

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-7}
"""by how much a share may miss; float32 sums the pixels of an image no better"""
PASSES, PASSES_BETWEEN = 80, 20
"""most passes over the pixels, at the end and at each temperature before it"""
SPREAD, COOLING = 32.0, 4.0
"""spread of the log-probabilities up to which one temperature does, and the most by which the next one is lower"""
FAR = 30.0
"""logarithm of a factor from which on it moves into the exponent"""
LEAST = {torch.float64: 600.0, torch.float32: 60.0}
"""how far below the largest of its pixel a logarithm counts; a CPU is slow with exponentials of less"""
TINY = 1e-300

FULL, DAMPED, SURE = 0, 1, 2
"""how a step is tried, one after the other"""


@torch.no_grad()
def with_shares(
    log_p: Float[Tensor, "b k *s"],
    lower: Float[Tensor, "g k"],
    upper: Float[Tensor, "g k"],
    slack: float = math.inf,
    epsilon: float = 1.0,
    over: Over = "image",
) -> Float[Tensor, "b k *s"]:
    r"""The u that minimises $\sum_x\sum_c u_c(\epsilon\log u_c - \log p_c)$ with shares between the bounds.

    Formula: $u_c(x) \propto p_c(x)^{1/\epsilon} e^{\lambda_c}$ with the λ that maximises the dual, |λ| at most the
        slack; λ is above 0 only for a class at its lower bound, below 0 only for one at its upper bound
    Source: the dual is that of Pathak et al., ICCV 2015; Newton's method on it, with the damped step of Sun &
        Tran-Dinh, Generalized self-concordant functions, Mathematical Programming 2019, and the falling temperatures
        of Schmitzer, Stabilized sparse scaling algorithms for entropy regularized transport problems, SISC 2019

    A step is first tried in full, from the class shares' logarithms: where all pixels of an image are alike, it is
    exact. If it overshoots, a damped step of plain Newton follows, and if that does, factors that each set their own
    class right, which is a step of Sinkhorn–Knopp and never overshoots. Where the log-probabilities lie far apart, λ
    is found at higher temperatures first. A class whose upper bound is 0 gets exactly 0.

    Args:
        log_p: log-probabilities.
        lower, upper: shares that an image can meet, a row for each or one for the batch; sums that miss 1 are scaled.
        slack: largest λ.
        epsilon: weight of the entropy.
        over: whose pixels a share is taken of; for ``batch`` the bounds are averaged over it.

    Example:
        Both pixels have p = (¾, ¼) and class 1 should have ½: λ₁ − λ₀ = log 3.

        >>> import torch
        >>> log_p = torch.tensor([[[0.75, 0.75], [0.25, 0.25]]]).log()
        >>> half = torch.full((1, 2), 0.5)
        >>> with_shares(log_p, half, half)
        tensor([[[0.5000, 0.5000],
                 [0.5000, 0.5000]]])
    """
    groups = (x.detach().cpu().double() for x in (lower, upper))
    low, high = (x.mean(0, keepdim=True) if over == "batch" else x for x in groups)
    problem = _Problem.of(low, high, slack)
    pixels = _Pixels(log_p.detach().flatten(2), problem.allowed, over == "batch")
    tolerance = TOLERANCE[log_p.dtype]
    dual = torch.zeros_like(low)
    roughly = _roughly(problem, pixels.count)
    for temperature in _temperatures(pixels.spread() / epsilon):
        pixels.scale = 1 / (epsilon * temperature)
        last = temperature == 1
        enough = tolerance if last else roughly
        given = _Problem(problem.lower, problem.upper, problem.allowed, slack / temperature)
        dual = _solve(pixels, given, dual / temperature, enough, PASSES if last else PASSES_BETWEEN)
        dual = dual * temperature
    return pixels.assigned.view(log_p.shape)


def _temperatures(spread: float) -> list[float]:
    """Falling to 1."""
    steps = math.ceil(math.log(max(spread / SPREAD, 1.0), COOLING))
    return [(spread / SPREAD) ** (step / steps) for step in range(steps, 0, -1)] + [1.0]


def _roughly(problem: _Problem, pixels: int) -> float:
    """By how much a share may miss before the temperature falls: little beside the smallest bound and a pixel."""
    bounds = torch.cat([problem.lower, problem.upper])
    smallest = float(bounds[bounds > 0].min())
    return max(0.03 * min(smallest, max(1 / pixels, 0.03)), 1e-6)


class _Pixels:
    """The pixels on their device: what class shares do factors give?

    Args:
        log_p: ``[b, k, n]``.
        allowed: classes that may have pixels, ``[g, k]``, g = b or 1.
        together: shares are those of the whole batch.
    """

    def __init__(self, log_p: Tensor, allowed: Tensor, together: bool) -> None:
        self.log_p, self.allowed, self.together = log_p, allowed, together
        self.scale = 1.0
        self.count = log_p.shape[2] * (log_p.shape[0] if together else 1)
        self.assigned = torch.empty_like(log_p)
        self._kernel = torch.empty_like(log_p)
        self._filled = 0.0, torch.zeros(allowed.shape, dtype=torch.float64)

    def spread(self) -> float:
        """How far below 0 a log-probability is."""
        least = self.log_p.amin(2).cpu().double()
        return float(-least.where(self.allowed.expand_as(least), 0.0).min())

    def moments(self, dual: Tensor) -> tuple[Tensor, Tensor]:
        """Means of u_c, ``[g, k]``, and of u_c u_j, ``[g, k, k]``, for these λ; u stays in ``assigned``."""
        scale, centre = self._filled
        if scale != self.scale or float((dual - centre).abs().max()) > FAR:
            self._fill(dual)
            centre = dual
        factor = (dual - centre).exp() * self.allowed
        u = torch.mul(self._kernel, self._there(factor), out=self.assigned)
        u.div_(u.sum(1, keepdim=True))
        with torch.autocast(u.device.type, enabled=False):
            products = u @ u.mT
        sums = torch.cat([products, u.sum(2).unsqueeze(2)], 2)
        # the only wait for the device: k (k + 1) numbers an image
        means = sums.cpu().double() / u.shape[2]
        if self.together:
            means = means.mean(0, keepdim=True)
        return means[:, :, -1], means[:, :, :-1]

    def _fill(self, dual: Tensor) -> None:
        """The exponentials for factors near these, the largest of each pixel 1."""
        start = self._there(dual.where(self.allowed, -math.inf))
        exponent = torch.add(start, self.log_p, alpha=self.scale, out=self._kernel)
        exponent.sub_(exponent.amax(1, keepdim=True)).clamp_min_(-LEAST[exponent.dtype]).exp_()
        self._filled = self.scale, dual

    def _there(self, numbers: Tensor) -> Tensor:
        return numbers.to(self.log_p.dtype).to(self.log_p.device).unsqueeze(2)


@dataclass(frozen=True)
class _Problem:
    """Bounds ``[g, k]`` that can be met, which classes may have pixels, and the largest λ."""

    lower: Tensor
    upper: Tensor
    allowed: Tensor
    slack: float

    @classmethod
    def of(cls, lower: Tensor, upper: Tensor, slack: float) -> _Problem:
        """Bounds made to meet the whole: sums beyond it are scaled."""
        lower = lower.clamp(0, 1)
        lower = lower / lower.sum(1, keepdim=True).clamp_min(1)
        upper = upper.clamp(0, 1).maximum(lower)
        upper = upper / upper.sum(1, keepdim=True).clamp_max(1)
        return cls(lower, upper, upper > 0, slack)

    @property
    def equal(self) -> Tensor:
        return self.upper - self.lower <= 1e-12

    def nearest(self, log_mean: Tensor, dual: Tensor) -> tuple[Tensor, Tensor]:
        r"""Shares that λ would reach if all pixels were alike, and the λ, up to a constant, of classes within bounds.

        The shares are $\min(\max(e^{v_c}, l_c), h_c)$ with $v_c = s + \log m_c - \lambda_c$ and the s for which they
        sum to 1; a λ that would exceed the slack stays there, and its share moves on. Other λ are NaN.
        """
        start = log_mean - dual
        slack = min(self.slack, 1e9)  # infinity has no difference from itself
        low, high = self.lower.log() - start, self.upper.log() - start
        edges = torch.stack([low - slack, low, high, high + slack], 1)
        edges = edges.where(self.allowed.unsqueeze(1), -math.inf)
        corners = edges.flatten(1).sort(1).values
        sums = self._shares(start.unsqueeze(1) + corners.unsqueeze(2), slack).sum(2)
        # between the last corner below 1 and the first above; or anywhere on a piece where the sum is 1
        below = (sums < 1 - 1e-12).sum(1, keepdim=True)
        upto = (sums <= 1 + 1e-12).sum(1, keepdim=True)
        final = corners.shape[1] - 1
        left = corners.gather(1, torch.minimum(below, upto - 1).clamp(0, final))
        right = corners.gather(1, torch.maximum(below, upto - 1).clamp(0, final))
        level = (left + right) / 2
        between = below >= upto
        moving, rest = self._moving(edges, torch.where(between, _inside(left, right), level), slack)
        fixed = self._shares(start + right, slack).masked_fill(moving, 0).sum(1, keepdim=True)
        total = (start + rest).where(moving, -math.inf).logsumexp(1, keepdim=True)
        exact = (1 - fixed).clamp_min(TINY).log() - total
        level = torch.where(between, exact.maximum(left).minimum(right), level)
        shares = self._shares(start + level, slack)
        return shares, rest.where(moving, math.nan)

    def _shares(self, v: Tensor, slack: float) -> Tensor:
        lower, upper = (x.unsqueeze(1) if v.dim() == 3 else x for x in (self.lower, self.upper))
        raised = lower.minimum((v + slack).exp())
        shares = v.exp().maximum(raised).minimum(upper).maximum((v - slack).exp())
        return shares.where(upper > 0, 0.0)

    def _moving(self, edges: Tensor, level: Tensor, slack: float) -> tuple[Tensor, Tensor]:
        """Classes whose share moves with the level, and their λ there."""
        first, low, high, last = edges.unbind(1)
        raised, lowered, between = level < first, level > last, (level > low) & (level < high)
        rest = slack * (raised.double() - lowered.double())
        return (raised | lowered | between) & self.allowed, rest


def _inside(left: Tensor, right: Tensor) -> Tensor:
    """A number between the two; the left one may be −∞."""
    return torch.where(left.isinf(), right - 1, (left + right) / 2)


@dataclass(frozen=True)
class _State:
    """Factors and what they give, a row for each group."""

    dual: Tensor
    mean: Tensor
    products: Tensor
    wanted: Tensor
    rest: Tensor

    @classmethod
    def of(cls, pixels: _Pixels, problem: _Problem, dual: Tensor) -> _State:
        mean, products = pixels.moments(dual)
        return cls(dual, mean, products, *problem.nearest(mean.clamp_min(TINY).log(), dual))

    @property
    def miss(self) -> Tensor:
        """Largest distance of a share from what it should be, ``[g, 1]``; 0 at the optimum and nowhere else."""
        return (self.wanted - self.mean).abs().amax(1, keepdim=True)

    def or_else(self, keep: Tensor, other: _State) -> _State:
        """Rows of this one where ``keep``, of the other elsewhere."""

        def row(name: str) -> Any:
            mine, its = getattr(self, name), getattr(other, name)
            return torch.where(keep.view(-1, *[1] * (mine.dim() - 1)), mine, its)

        return _State(*(row(field.name) for field in fields(self)))


def _solve(
    pixels: _Pixels, problem: _Problem, dual: Tensor, tolerance: float, passes: int
) -> Tensor:
    state = _State.of(pixels, problem, dual)
    tried = torch.full((len(dual), 1), FULL)
    current = True
    for _ in range(passes):
        done = state.miss <= tolerance
        if bool(done.all()):
            break
        step, reach = _step(state, problem, tried)
        step = step.masked_fill(done, 0)
        there = _State.of(pixels, problem, state.dual + step)
        before = ((state.mean - state.wanted) * step).sum(1, keepdim=True)
        after = ((there.mean - there.wanted) * step).sum(1, keepdim=True)
        good = (after <= 0.9 * before.abs()) | (there.miss <= 0.5 * state.miss)
        good |= (tried == SURE) | done
        current = bool(good.all())
        state = there.or_else(good, state)
        again = ((tried == DAMPED) & (reach > 1)).long()
        tried = torch.where(good, again, (tried + 1).clamp_max(SURE))
    if not current:
        pixels.moments(state.dual)
    return state.dual


def _step(state: _State, problem: _Problem, tried: Tensor) -> tuple[Tensor, Tensor]:
    """Change of λ, ``[g, k]``, and how far apart it moves two classes, ``[g, 1]``."""
    mean = state.mean.clamp_min(TINY)
    growth = (state.wanted.clamp_min(TINY) / mean).log().where(problem.allowed, 0.0)
    relative = growth - (mean * growth).sum(1, keepdim=True)
    plain = (state.wanted - state.mean) / mean
    moving = ~state.rest.isnan()
    some = moving.any(1, keepdim=True)
    level = (state.dual - state.rest).where(moving, 0.0).sum(1, keepdim=True)
    level = level / moving.sum(1, keepdim=True).clamp_min(1)
    # without a class that rests λ is free up to a constant, and the largest class keeps its own
    largest = torch.zeros_like(moving).scatter(1, state.mean.argmax(1, keepdim=True), True)
    held = moving | (largest & ~some) | ~problem.allowed
    target = torch.where(moving, level + state.rest - state.dual, 0.0)
    right = torch.where(tried == DAMPED, plain, relative)
    # λ of a class at a bound has the bound's sign
    either = problem.equal | moving | ~some
    at_lower, at_upper = state.wanted <= problem.lower, state.wanted >= problem.upper
    widest = torch.where(some, problem.slack, math.inf)
    floor = torch.where(at_lower & ~either, 0.0, -widest)
    ceiling = torch.where(at_upper & ~either, 0.0, widest)
    above = state.dual - level
    rows = state.products / mean.unsqueeze(2)
    for _ in range(rows.shape[1]):
        newton = _newton(rows, held, torch.where(held, target, right))
        # a λ that rests and would leave to the wrong side goes on resting
        stays = ((above <= floor + 1e-9) & (newton < 0)) | (
            (above >= ceiling - 1e-9) & (newton > 0)
        )
        stays &= ~held & (tried == DAMPED)
        if not bool(stays.any()):
            break
        held = held | stays
    usable = newton.isfinite().all(1, keepdim=True) & (tried != SURE)
    newton = newton.where(usable, 0.0)
    # a damped step ends where the first λ reaches its bound's limit; a full one only clips those beyond
    reach = _reach(newton, problem.allowed)
    bound = torch.where(newton < 0, floor, ceiling)
    room = ((bound - above) / newton).nan_to_num(1.0)
    room = room.where(((bound - above) * newton > 0) & (newton != 0), 1.0).amin(1, keepdim=True)
    length = (reach.log1p() / reach.clamp_min(TINY)).minimum(room)
    newton = newton * torch.where(tried == DAMPED, length, 1.0)
    newton = (above + newton).clamp(floor, ceiling) - above
    step = torch.where(usable, newton, growth)
    step = (step - (mean * step).sum(1, keepdim=True)).where(problem.allowed, 0.0)
    return step.clamp(-2 * FAR, 2 * FAR), reach


def _reach(step: Tensor, allowed: Tensor) -> Tensor:
    """How far apart a step moves two classes."""
    most = step.where(allowed, -math.inf).amax(1, keepdim=True)
    return most - step.where(allowed, math.inf).amin(1, keepdim=True)


def _newton(rows: Tensor, held: Tensor, right: Tensor) -> Tensor:
    """Solution of (1 − B) δ = r for the stochastic matrix B ``[g, k, k]``; ``held`` rows say δ itself.

    1 − B has the diagonal Σ_j≠i B_ij, from which nothing is subtracted: it is right even if pixels are almost one-hot.
    """
    diagonal = rows.diagonal(dim1=1, dim2=2)
    across = rows - torch.diag_embed(diagonal)
    matrix = torch.diag_embed(across.sum(2)) - across
    matrix = torch.eye(rows.shape[1], dtype=rows.dtype).where(held.unsqueeze(2), matrix)
    solution: Tensor = torch.linalg.solve_ex(matrix, right)[0]
    return solution
