"""One step of every cell of the catalogue in NumPy, written from the papers: the oracle of the catalogue.

Nothing here imports `rnnjax`. A step maps `(parameters, carry, x)` of one row to `(carry, y)`; hyperparameters are the
defaults of the cells in `tests.registry`. `part(w, k, n)` is block k of n.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

Step = Callable[[Any, Any, np.ndarray], tuple[Any, np.ndarray]]


def s(z):
    return 1 / (1 + np.exp(-z))


def hard(z):
    return np.clip(z / 6 + 0.5, 0, 1)


def softplus(z):
    return np.logaddexp(0, z)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def part(w, k, n):
    size = w.shape[-1] // n
    return w[..., k * size : (k + 1) * size]


def pre(p, x, h, k, n, m=None, j=None):
    """x W_x + h W_h + b, of block k of n; of block j of m in W_h if that has other blocks."""
    return x @ part(p.w_x, k, n) + part(p.b, k, n) + h @ part(p.w_h, k if j is None else j, n if m is None else m)


STEPS: dict[str, Step] = {}
"""Steps by the names of the catalogue, which are those of the functions below."""


def step(function: Step) -> Step:
    """Registers a step."""
    STEPS[function.__name__] = function
    return function


def of_state(function):
    """A step of a single hidden state that is also the output."""

    @functools.wraps(function)
    def both(p, h, x):
        h = function(p, h, x)
        return h, h

    return step(both)


def of_two(function):
    """A step of a hidden and a cell state."""

    @functools.wraps(function)
    def both(p, carry, x):
        h, c = function(p, carry.h, carry.c, x)
        return carry._replace(h=h, c=c), h

    return step(both)


@of_two
def lstm_original(p, h, c, x):
    c = c + s(pre(p, x, h, 0, 3)) * np.tanh(pre(p, x, h, 1, 3))
    return s(pre(p, x, h, 2, 3)) * np.tanh(c), c


@of_two
def lstm_coupled(p, h, c, x):
    f = s(pre(p, x, h, 0, 3))
    c = f * c + (1 - f) * np.tanh(pre(p, x, h, 1, 3))
    return s(pre(p, x, h, 2, 3)) * np.tanh(c), c


def peephole(p, h, c, x):
    """The cell state and the output gate."""
    new = s(pre(p, x, h, 1, 4) + part(p.w_c, 1, 3) * c) * c
    new = new + s(pre(p, x, h, 0, 4) + part(p.w_c, 0, 3) * c) * np.tanh(pre(p, x, h, 2, 4))
    return new, s(pre(p, x, h, 3, 4) + part(p.w_c, 2, 3) * new)


@of_two
def lstm_peephole(p, h, c, x):
    c, o = peephole(p, h, c, x)
    return o * np.tanh(c), c


@of_two
def lstm_residual(p, h, c, x):
    c, o = peephole(p, h, c, x)
    return o * (np.tanh(c) @ p.w_p + x @ p.w_r), c


@of_two
def lstm_layer_norm(p, h, c, x):
    def norm(z):
        return (z - z.mean()) / np.sqrt(z.var() + 1e-5)

    i, f, g, o = np.split(p.gain_x * norm(x @ p.w_x) + p.gain_h * norm(h @ p.w_h) + p.b, 4)
    c = s(f) * c + s(i) * np.tanh(g)
    return s(o) * np.tanh(p.gain_c * norm(c) + p.b_c), c


@of_state
def janet(p, h, x):
    f = pre(p, x, h, 0, 2)
    return s(f) * h + (1 - s(f - 1)) * np.tanh(pre(p, x, h, 1, 2))


@of_two
def lstm_multiplicative(p, h, c, x):
    m = (x @ part(p.w_x, 0, 5)) * (h @ p.w_h)
    i, f, g, o = (x @ part(p.w_x, k + 1, 5) + m @ part(p.w_m, k, 4) + part(p.b, k, 4) for k in range(4))
    c = s(f) * c + s(i) * np.tanh(g)
    return s(o) * np.tanh(c), c


@of_two
def nas(p, h, c, x):
    a = [pre(p, x, h, k, 8) for k in range(8)]
    first = [s(a[0]), np.maximum(a[1], 0), s(a[2]), np.maximum(a[3], 0)]
    first += [np.tanh(a[4]), s(a[5]), np.tanh(a[6]), s(a[7])]
    second = [np.tanh(first[0] * first[1]), np.tanh(first[2] + first[3])]
    second += [np.tanh(first[4] * first[5]), s(first[6] + first[7])]
    c = np.tanh(second[0] + c) * second[1]
    return np.tanh(c * np.tanh(second[2] + second[3])), c


@of_two
def lstm_working_memory(p, h, c, x):
    def seen(c, k):
        return np.tanh(c @ part(p.w_c, k, 3) + part(p.b_c, k, 3))

    new = s(pre(p, x, h, 1, 4) + seen(c, 1)) * c + s(pre(p, x, h, 0, 4) + seen(c, 0)) * np.tanh(pre(p, x, h, 2, 4))
    return s(pre(p, x, h, 3, 4) + seen(new, 2)) * np.tanh(new), new


@step
def lstm_mass_conserving(p, c, x):
    size = c.shape[0]
    m, a, total = x[0], x[1:], np.abs(c).sum()
    z = a @ p.w_x + (c / total if total else c) @ p.w_h + p.b
    into, out, moved = softmax(z[:size]), s(z[size : 2 * size]), softmax(z[2 * size :].reshape(size, size))
    n = c @ moved + m * into
    return (1 - out) * n, out * n


@step
def slstm(p, carry, x):
    """With the true, unstabilised states, C = c exp(m)."""
    i, f, g, o = (pre(p, x, carry.h, k, 4) for k in range(4))
    scale = np.exp(carry.m)
    c = s(f) * carry.c * scale + np.exp(i) * np.tanh(g)
    n = s(f) * carry.n * scale + np.exp(i)
    h, m = s(o) * c / n, np.maximum(np.log(s(f)) + carry.m, i)
    return carry._replace(h=h, c=c / np.exp(m), n=n / np.exp(m), m=m), h


@of_state
def gru_reset_before(p, h, x):
    r, z = s(pre(p, x, h, 0, 3)), s(pre(p, x, h, 1, 3))
    return z * h + (1 - z) * np.tanh(pre(p, x, r * h, 2, 3))


@of_state
def mgu(p, h, x):
    f = s(pre(p, x, h, 0, 2))
    return (1 - f) * h + f * np.tanh(pre(p, x, f * h, 1, 2))


@of_state
def ligru(p, h, x):
    z = s(pre(p, x, h, 0, 2))
    return z * h + (1 - z) * np.maximum(pre(p, x, h, 1, 2), 0)


@of_state
def lightru(p, h, x):
    f = s(pre(p, x, h, 0, 2, 1, 0))
    return (1 - f) * h + f * np.tanh(x @ part(p.w_x, 1, 2) + part(p.b, 1, 2))


@of_state
def minimal_rnn(p, h, x):
    z = np.tanh(x @ p.w_x + part(p.b, 0, 2))
    u = s(h @ p.w_h + z @ p.w_z + part(p.b, 1, 2))
    return u * h + (1 - u) * z


@of_state
def mut1(p, h, x):
    z = s(x @ part(p.w_x, 0, 3) + part(p.b, 0, 3))
    r = s(pre(p, x, h, 1, 3, 2, 0))
    n = np.tanh((r * h) @ part(p.w_h, 1, 2) + np.tanh(x @ part(p.w_x, 2, 3)) + part(p.b, 2, 3))
    return n * z + h * (1 - z)


@of_state
def mut2(p, h, x):
    z, r = s(pre(p, x, h, 0, 3)), s(pre(p, x, h, 1, 3))
    return np.tanh(pre(p, x, r * h, 2, 3)) * z + h * (1 - z)


@of_state
def mut3(p, h, x):
    z, r = s(pre(p, x, np.tanh(h), 0, 3)), s(pre(p, x, h, 1, 3))
    return np.tanh(pre(p, x, r * h, 2, 3)) * z + h * (1 - z)


@of_state
def ugrnn(p, h, x):
    g = s(pre(p, x, h, 1, 2))
    return g * h + (1 - g) * np.tanh(pre(p, x, h, 0, 2))


@step
def intersection(p, h, x):
    d, size = x.shape[0], h.shape[0]
    a = x @ p.w_x + h @ p.w_h + p.b
    g_y, g_h = s(a[d + size : 2 * d + size]), s(a[2 * d + size :])
    return g_h * h + (1 - g_h) * np.tanh(a[d : d + size]), g_y * x + (1 - g_y) * np.maximum(a[:d], 0)


@of_state
def sgrn(p, h, x):
    u = x @ p.w_x + p.b
    f = s(u + h @ p.w_h)
    return np.tanh((1 - f) * u + f * h)


@of_state
def sgu(p, h, x):
    g = np.tanh(((x @ part(p.w_x, 0, 2) + part(p.b, 0, 2)) * h) @ part(p.w_h, 0, 2))
    z = hard(pre(p, x, h, 1, 2))
    return (1 - z) * h + z * softplus(g * h)


@of_state
def dsgu(p, h, x):
    g = np.tanh(((x @ part(p.w_x, 0, 2) + part(p.b, 0, 2)) * h) @ part(p.w_h, 0, 2))
    z = hard(pre(p, x, h, 1, 2))
    return (1 - z) * h + z * s((g * h) @ p.w_o)


@of_state
def star(p, h, x):
    z, k = np.tanh(x @ part(p.w_x, 0, 2) + part(p.b, 0, 2)), s(pre(p, x, h, 1, 2, 1, 0))
    return np.tanh((1 - k) * h + k * z)


@of_state
def atr(p, h, x):
    a, q = x @ p.w_x + p.b, h @ p.w_h
    return s(a + q) * a + s(a - q) * h


def bistable(p, h, x, feedback):
    a = 1 + np.tanh(x @ part(p.w_x, 0, 3) + part(p.b, 0, 3) + feedback(0))
    c = s(x @ part(p.w_x, 1, 3) + part(p.b, 1, 3) + feedback(1))
    return c * h + (1 - c) * np.tanh(x @ part(p.w_x, 2, 3) + part(p.b, 2, 3) + a * h)


@of_state
def brc(p, h, x):
    return bistable(p, h, x, lambda k: part(p.w_h, k, 2) * h)


@of_state
def nbrc(p, h, x):
    return bistable(p, h, x, lambda k: h @ part(p.w_h, k, 2))


@of_two
def ran(p, h, c, x):
    i, f = (s(x @ part(p.w_x, k + 1, 3) + h @ part(p.w_h, k, 2) + part(p.b, k, 2)) for k in range(2))
    c = i * (x @ part(p.w_x, 0, 3)) + f * c
    return np.tanh(c), c


@of_state
def cfn(p, h, x):
    forget, into = (s(x @ part(p.w_x, k, 3) + h @ part(p.w_h, k, 2) + part(p.b, k, 2)) for k in range(2))
    return forget * np.tanh(h) + into * np.tanh(x @ part(p.w_x, 2, 3))


@step
def scrn(p, carry, x):
    slow = carry.s.shape[0]
    context = 0.05 * (x @ p.w_x[:, :slow]) + 0.95 * carry.s
    h = s(context @ p.w_s + x @ p.w_x[:, slow:] + carry.h @ p.w_h)
    return carry._replace(h=h, s=context), np.concatenate([h, context])


@step
def tau_gru(p, carry, x):
    h, late = carry.h, carry.past[0]
    u, z = np.tanh(pre(p, x, h, 0, 4)), np.tanh(pre(p, x, late, 1, 4))
    g, a = s(pre(p, x, h, 2, 4)), s(pre(p, x, h, 3, 4))
    new = h + g * (u + a * z - h)
    return carry._replace(h=new, past=np.stack([*carry.past[1:], h])), new


@of_state
def miru1(p, h, x):
    r = s(pre(p, x, h, 0, 2))
    return (h + np.tanh(pre(p, x, r * h, 1, 2))) / 2


@of_state
def miru2(p, h, x):
    return (h + np.tanh(x @ p.w_x + p.b + h @ p.w_h / 2)) / 2


@of_state
def highway(p, h, x):
    for layer in range(3):
        a = h @ p.w_h[layer] + p.b[layer] + (x @ p.w_x if layer == 0 else 0)
        t = s(part(a, 1, 2))
        h = np.tanh(part(a, 0, 2)) * t + h * (1 - t)
    return h


@of_state
def indrnn(p, h, x):
    return np.maximum(x @ p.w_x + p.w_h * h + p.b, 0)


@of_state
def fast_rnn(p, h, x):
    alpha, beta = s(p.scalars)
    return alpha * np.tanh(x @ p.w_x + h @ p.w_h + p.b) + beta * h


@of_state
def fast_grnn(p, h, x):
    zeta, nu = s(p.scalars)
    u = x @ p.w_x + h @ p.w_h
    z = s(u + part(p.b, 0, 2))
    return (zeta * (1 - z) + nu) * np.tanh(u + part(p.b, 1, 2)) + z * h


def exponential(a):
    """exp(A) of a skew-symmetric matrix, by its eigenvalues."""
    values, vectors = np.linalg.eigh(1j * a)
    return np.real((vectors * np.exp(-1j * values)) @ vectors.conj().T)


def cayley(a):
    one = np.eye(len(a))
    return np.linalg.solve(one + a, one - a)


@of_state
def orthogonal(p, h, x):
    return np.tanh(x @ p.w_x + h @ exponential(p.w_h - p.w_h.T) + p.b)


@of_state
def orthogonal_cayley(p, h, x):
    return np.tanh(x @ p.w_x + h @ cayley(p.w_h - p.w_h.T) + p.b)


@step
def unitary(p, h, x):
    size = p.w_h.shape[0]
    w = p.w_h[:, :size] + 1j * p.w_h[:, size:]
    values, vectors = np.linalg.eigh(1j * (w - w.conj().T))
    u = (vectors * np.exp(-1j * values)) @ vectors.conj().T
    z = x @ (p.w_x[:, :size] + 1j * p.w_x[:, size:]) + (h[:size] + 1j * h[size:]) @ u
    z = np.maximum(np.abs(z) + p.b, 0) * np.exp(1j * np.angle(z)) * (np.abs(z) > 0)
    h = np.concatenate([z.real, z.imag])
    return h, h


@step
def clockwork(p, carry, x):
    """Two modules of two units: the first ticks always, the second at even times; the first sees both."""
    seen = p.w_h * np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]])
    new = np.tanh(x @ p.w_x + carry.h @ seen + p.b)
    ticks = np.array([True, True, carry.t[0] % 2 == 0, carry.t[0] % 2 == 0])
    h = np.where(ticks, new, carry.h)
    return carry._replace(h=h, t=(carry.t + 1) % 2), h


@of_state
def antisymmetric(p, h, x):
    a = p.w_h - p.w_h.T - 0.01 * np.eye(len(h))
    return h + 0.1 * np.tanh(x @ p.w_x + h @ a + p.b)


@of_state
def antisymmetric_gated(p, h, x):
    flow = h @ (p.w_h - p.w_h.T - 0.01 * np.eye(len(h)))
    z, n = (x @ part(p.w_x, k, 2) + part(p.b, k, 2) + flow for k in range(2))
    return h + 0.1 * s(z) * np.tanh(n)


@step
def cornn(p, carry, x):
    size = carry.y.shape[0]
    force = np.tanh(x @ p.w_x + carry.y @ p.w_h[:size] + carry.z @ p.w_h[size:] + p.b)
    z = carry.z + 0.05 * (force - carry.y - carry.z)
    y = carry.y + 0.05 * z
    return carry._replace(y=y, z=z), y


@step
def unicornn(p, carry, x):
    dt = 0.1 * s(p.c)
    z = carry.z - dt * (np.tanh(x @ p.w_x + p.w_h * carry.y + p.b) + carry.y)
    y = carry.y + dt * z
    return carry._replace(y=y, z=z), y


@step
def lem(p, carry, x):
    a = [x @ part(p.w_x, k, 4) + part(p.b, k, 4) for k in range(4)]
    near, far = s(a[0] + carry.y @ part(p.w_h, 0, 3)), s(a[1] + carry.y @ part(p.w_h, 1, 3))
    z = carry.z + near * (np.tanh(a[2] + carry.y @ part(p.w_h, 2, 3)) - carry.z)
    y = carry.y + far * (np.tanh(a[3] + z @ p.w_z) - carry.y)
    return carry._replace(y=y, z=z), y


@step
def rate(p, v, x):
    v = v + 0.1 * (np.tanh(v) @ p.w_h + x @ p.w_x + p.b - v)
    return v, np.tanh(v)


@of_state
def rate_after(p, r, x):
    return r + 0.1 * (np.tanh(r @ p.w_h + x @ p.w_x + p.b) - r)


@step
def low_rank(p, v, x):
    v = v + 0.1 * (np.tanh(v) @ (p.w_m @ p.w_n / len(v)) + x @ p.w_x + p.b - v)
    return v, np.tanh(v)


@of_state
def ltc(p, h, x):
    for _ in range(6):
        f = s(x @ p.w_x + h @ p.w_h + p.b)
        h = (h + f * p.a / 6) / (1 + (softplus(p.rate) + f) / 6)
    return h


@of_state
def cfc(p, h, x):
    z = 1.7159 * np.tanh(2 / 3 * (x @ p.w_x + h @ p.w_h + p.b)) @ p.w_o + p.b_o
    f, g, k = np.split(z, 3)
    return s(-f) * np.tanh(g) + (1 - s(-f)) * np.tanh(k)


@of_state
def t_rnn(p, h, x):
    z, f = np.split(x @ p.w_x + p.b, 2)
    return s(f) * h + (1 - s(f)) * z


@step
def t_gru(p, carry, x):
    z, f, o = np.split(x @ p.w_x + carry.x @ p.w_v + p.b, 3)
    h = s(f) * carry.h + z * np.tanh(o)
    return carry._replace(h=h, x=x), h


@step
def t_lstm(p, carry, x):
    z, f, o = np.split(x @ p.w_x + carry.x @ p.w_v + p.b, 3)
    c = s(f) * carry.h + (1 - s(f)) * z
    return carry._replace(h=c, x=x), c * np.tanh(o)


@of_state
def min_gru(p, h, x):
    z, n = np.split(x @ p.w_x + p.b, 2)
    return h + s(z) * (n - h)


@of_state
def min_lstm(p, h, x):
    f, i, n = np.split(x @ p.w_x + p.b, 3)
    return (s(f) * h + s(i) * n) / (s(f) + s(i))


def complex_step(p, carry, x, eigenvalues, into, factor):
    size = len(eigenvalues)
    z = eigenvalues * (carry.re + 1j * carry.im) + into * (x @ (p.w_x[:, :size] + 1j * p.w_x[:, size:]))
    y = factor * (z.real @ p.w_o[:size] + z.imag @ p.w_o[size:]) + x @ p.w_d
    return carry._replace(re=z.real, im=z.imag), y


@step
def lru(p, carry, x):
    return complex_step(p, carry, x, np.exp(-np.exp(p.nu) + 1j * np.exp(p.theta)), np.exp(p.gamma), 1)


@step
def ssm_zoh(p, carry, x):
    rates, dt = -np.exp(p.rate) + 1j * p.frequency, np.exp(p.log_dt)
    return complex_step(p, carry, x, np.exp(rates * dt), (np.exp(rates * dt) - 1) / rates, 2)


@step
def ssm_bilinear(p, carry, x):
    rates, dt = -np.exp(p.rate) + 1j * p.frequency, np.exp(p.log_dt)
    below = 1 - rates * dt / 2
    return complex_step(p, carry, x, (1 + rates * dt / 2) / below, dt / below, 2)


@of_state
def rg_lru(p, h, x):
    r, i, v = np.split(x @ p.w_x + p.b, 3)
    a = s(p.decay) ** (8 * s(r))
    return a * h + np.sqrt(1 - a * a) * s(i) * v


@step
def mlstm(p, carry, x):
    """One head, with the true, unstabilised states."""
    size = (p.b.shape[0] - 2) // 4
    z = x @ p.w_x + p.b
    q, k, v, o = (z[n * size : (n + 1) * size] for n in range(4))
    i, f, k = z[-2], z[-1], k / np.sqrt(size)
    scale = np.exp(carry.m[0])
    c = s(f) * carry.c[0] * scale + np.exp(i) * np.outer(k, v)
    n = s(f) * carry.n[0] * scale + np.exp(i) * k
    m = np.maximum(np.log(s(f)) + carry.m, i)
    y = s(o) * (q @ c) / max(abs(n @ q), 1)
    return carry._replace(c=c[None] / np.exp(m), n=n[None] / np.exp(m), m=m), y


@of_state
def echo_state(p, h, x):
    return np.tanh(x @ p.w_x + h @ p.w_h + p.b)


def convolved(x, kernel):
    """x `[*space, D]` * kernel `[*size, D, N]`, with zeros around x; one more of them at the end if a size is even."""
    size = kernel.shape[:-2]
    padded = np.pad(x, [*(((k - 1) // 2, k // 2) for k in size), (0, 0)])
    windows = {at: tuple(slice(i, i + n) for i, n in zip(at, x.shape, strict=False)) for at in np.ndindex(size)}
    return sum(padded[window] @ kernel[at] for at, window in windows.items())


@step
def conv_lstm(p, carry, x):
    i, f, g, o = np.split(convolved(x, p.w_x) + convolved(carry.h, p.w_h) + p.b, 4, axis=-1)
    c = s(f) * carry.c + s(i) * np.tanh(g)
    h = s(o) * np.tanh(c)
    return carry._replace(h=h, c=c), h


@of_state
def conv_gru(p, h, x):
    w_r, w_z, w_n = np.split(p.w_h, 3, axis=-1)
    x_r, x_z, x_n = np.split(convolved(x, p.w_x) + p.b, 3, axis=-1)
    r, z = s(x_r + convolved(h, w_r)), s(x_z + convolved(h, w_z))
    n = np.tanh(x_n + convolved(r * h, w_n))
    return n + z * (h - n)
