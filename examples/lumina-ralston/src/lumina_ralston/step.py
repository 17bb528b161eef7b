"""Ralston's method, of all second-order ones with two evaluations the one with the smallest bound on its error."""


def ralston(velocity, x, t, u):
    """One step from time t to u: second order (A. Ralston, 1962)."""
    step = u - t
    slope = velocity(x, t)
    later = velocity(x + 2 / 3 * step * slope, t + 2 / 3 * step)
    return x + step / 4 * (slope + 3 * later)
