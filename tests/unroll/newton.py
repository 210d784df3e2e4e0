"""Newton's method in time at full size: long sequences, bounds against true errors, and chaos.

    python -m tests.unroll.newton            all three: about an hour on two cores
    python -m tests.unroll.newton long       T = 10,000, equal to the scan to 1e-10, gradients too
    python -m tests.unroll.newton bounds 504     so many random networks: no bound below the true error
    python -m tests.unroll.newton chaos 20       so many chaotic networks: all are reported

True errors are against the same recurrence in NumPy, in 80 bits.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import rnnjax
from rnnjax import gradients, parallel


def contracting(cell, scale, seed, features):
    """Gaussian parameters, the recurrent ones with spectral norm `scale` for each gate's block."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: cell.init(key, features), jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / features**0.5), shapes)
    blocks = np.split(np.asarray(params.w_h), params.w_h.shape[1] // params.w_h.shape[0], axis=1)
    return params._replace(w_h=jnp.asarray(np.hstack([b * scale / np.linalg.norm(b, 2) for b in blocks])))


def times(rng, steps, rows):
    return {
        "lengths": rng.integers(steps // 2, steps + 1, size=rows),
        "mask": rng.random((steps, rows)) > 0.1,
        "resets": rng.random((steps, rows)) < 5 / steps,
    }


def largest_difference(a, b):
    """Over all leaves, relative to the largest number of each, if that is above 1."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(jnp.abs(x - y).max() / jnp.maximum(jnp.abs(y).max(), 1)) for x, y in pairs)


def long(steps=10_000):
    for cell in (rnnjax.Elman(8), rnnjax.GRU(8), rnnjax.LSTM(8)):
        rng = np.random.default_rng(0)
        params, xs = contracting(cell, 0.9, 0, 3), jnp.asarray(rng.normal(size=(steps, 2, 3)))
        options = times(rng, steps, 2)

        def value_and_gradients(params, xs, engine, cell=cell, options=options):
            def loss(params, xs):
                carry, ys = rnnjax.unroll(cell, params, xs, engine=engine, **options)
                return jnp.mean(ys**2) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(carry)), (carry, ys)

            return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, xs)

        run = jax.jit(value_and_gradients, static_argnums=2)
        ((_, values), found), ((_, expected), gradient) = (run(params, xs, e) for e in ("parallel", "scan"))
        worst = largest_difference(values, expected), largest_difference(found, gradient)
        print(f"{type(cell).__name__}, T = {steps}: values {worst[0]:.1e}, gradients {worst[1]:.1e}", flush=True)
        assert max(worst) < 1e-10


def exact(cell, params, xs, counts, resets):
    """All states `[T, S]` of one row, in 80 bits."""
    w_x, w_h, b = (np.asarray(leaf, np.longdouble) for leaf in (params.w_x, params.w_h, params.b))
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    size = w_h.shape[0]
    h, c, found = np.zeros(size, np.longdouble), np.zeros(size, np.longdouble), []
    for x, counted, reset in zip(np.asarray(xs, np.longdouble), counts, resets, strict=True):
        if reset:
            h, c = np.zeros_like(h), np.zeros_like(c)
        if counted:
            if isinstance(cell, rnnjax.Elman):
                h = np.tanh(x @ w_x + h @ w_h + b)
            elif isinstance(cell, rnnjax.LSTM):
                i, f, g, o = np.split(x @ w_x + h @ w_h + b, 4)
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(c)
            else:
                (r, z), n_x = np.split((x @ w_x + b)[: 2 * size] + (h @ w_h)[: 2 * size], 2), (x @ w_x + b)[2 * size :]
                n_h = (h @ w_h)[2 * size :] + np.asarray(params.b_hn, np.longdouble)
                n, z = np.tanh(n_x + sigmoid(r) * n_h), sigmoid(z)
                h = (1 - z) * n + z * h
        found.append(np.concatenate([h, c]) if isinstance(cell, rnnjax.LSTM) else h)
    return np.stack(found)


STOPS = (1, 2, 3, 50)


def bounds(count=504, steps=64, rows=1):
    """Elman, GRU and LSTM in turn; ‖W2‖₂ of the Elman networks in 0.2 to 0.9, of every sixth one to 2."""
    found: dict[str, list[tuple[bool, float]]] = {}
    cells = (rnnjax.Elman(12), rnnjax.Elman(24), rnnjax.GRU(6), rnnjax.LSTM(5))
    for seed in range(count):
        rng, cell = np.random.default_rng(seed), cells[seed % len(cells)]
        wild = seed // len(cells) % 6 == 5
        scale = rng.uniform(0.9, 2.0) if wild else rng.uniform(0.2, 0.9)
        params, xs = contracting(cell, scale, seed, 3), jnp.asarray(rng.normal(size=(steps, rows, 3)))
        options = times(rng, steps, rows)
        counts = options["mask"] & (np.arange(steps)[:, None] < options["lengths"])
        resets = options["resets"] & (np.arange(steps)[:, None] < options["lengths"])
        truth = np.stack([exact(cell, params, xs[:, r], counts[:, r], resets[:, r]) for r in range(rows)], axis=1)
        for stop in STOPS:
            got = parallel.solve(cell, params, xs, iterations=stop, **options)
            states = np.concatenate([np.asarray(leaf) for leaf in jax.tree.leaves(got.carries)], axis=-1)
            error = np.abs(states - truth).max((0, 2)).astype(float)
            assert (got.bound >= error).all(), (seed, stop, got.bound, error)
            kind = f"{type(cell).__name__}{', beyond 0.9' if wild else ''}, {stop} iterations"
            for bound, true in zip(got.bound, error, strict=True):
                found.setdefault(kind, []).append((bool(np.isfinite(bound)), float(bound / max(true, 1e-300))))
        if seed % 50 == 49:
            print(f"{seed + 1} networks", flush=True)
    for kind, of_kind in sorted(found.items()):
        finite = [ratio for is_finite, ratio in of_kind if is_finite]
        share, middle = len(finite) / len(of_kind), np.median(finite) if finite else np.nan
        print(f"{kind}: {len(of_kind)} bounds, {share:.1%} finite, median of bound / true error {middle:.4g}")
        if "beyond" not in kind and "Elman" in kind:
            assert share >= 0.9
    print(f"{count} networks: no bound is below the true error")


def chaos(count=20, size=128, steps=2000, gain=3.0):
    reported = 0
    cell = rnnjax.Elman(size)
    for seed in range(count):
        rng, start = np.random.default_rng(seed), time.perf_counter()
        w_h = gain * rng.normal(size=(size, size)) / size**0.5
        params = rnnjax.ElmanParams(jnp.zeros((1, size)), jnp.asarray(w_h), jnp.zeros(size))
        carry, xs = jnp.asarray(rng.normal(size=size)), jnp.zeros((steps, 1))
        exponent = float(gradients.leading_exponent(cell, params, xs, carry=carry, transient=200).exponent)
        found = parallel.solve(cell, params, xs, carry=carry, iterations=50, certify=False)
        truth = rnnjax.unroll(cell, params, xs, carry=carry, engine="scan", carries=True)[2]
        error = float(jnp.abs(found.carries - truth).max())
        reported += not bool(found.converged)
        print(
            f"{seed}: exponent {exponent:.3f}, {int(found.iterations)} iterations, "
            f"residual {float(found.residual):.1e}, estimate {float(found.estimate):.1e}, error {error:.1e}, "
            f"converged {bool(found.converged)}, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        assert exponent > 0
    print(f"{reported} of {count} are reported as not converged")
    assert reported == count


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    parts = {"long": long, "bounds": bounds, "chaos": chaos}
    chosen = sys.argv[1:2] or list(parts)
    for name in chosen:
        parts[name](*map(int, sys.argv[2:3]))
