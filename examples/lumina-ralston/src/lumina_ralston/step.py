"""Ralston's method: the second-order method with two evaluations that has the smallest error bound."""


def ralston(velocity, x, t, u):
    """Integrate one step from time t to u with second order (A. Ralston, 1962)."""
    step = u - t
    slope = velocity(x, t)
    later = velocity(x + 2 / 3 * step * slope, t + 2 / 3 * step)
    return x + step / 4 * (slope + 3 * later)
