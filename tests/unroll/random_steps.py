"""Random steps in every engine and in `rnnjax.gradients`, compared with `jax.lax.scan` of the same step.

    python -m tests.unroll.random_steps 300              seeds 0 .. 299
    python -m tests.unroll.random_steps 1 --start 41     repeats one of them and prints its source

For each step: outputs and carries to 1e-12; gradients for parameters, carry, inputs and closed-over arrays, and their
derivative along a direction (forward over reverse), to 1e-10; NaN in masked inputs changes no bit of any of these.
The adjoint, the Jacobians and the Lyapunov exponents are compared with `jax.grad` and `jax.jacfwd` of the step.

A failure prints the step's source. Exit status 1 if there is any.
"""

import argparse
import collections
import contextlib
import functools
import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import rnnjax
from rnnjax import gradients
from rnnjax.cell import PyTree
from tests.registry import assert_identical
from tests.unroll.step_writer import Arguments, Written, write

VALUES, DERIVATIVES, INSTRUMENTS = 1e-12, 1e-10, 1e-9
SINGLE = 1e-5
"""For gradients of parameters in float32: each step's share is rounded to it."""

HAS_CARRIES = "carries" in inspect.signature(rnnjax.unroll).parameters


@functools.cache
def quickly() -> dict[str, Any]:
    """Compiler options for fast compilation; the last two are not in every jaxlib."""
    options: dict[str, Any] = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    for name, value in {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}.items():
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.jit(lambda: 0, compiler_options={name: value})()
            options[name] = value
    return options


Times = dict[str, Any]
"""`lengths`, `mask` and `resets`, those that are given."""


class Outputs(NamedTuple):
    carry: PyTree
    ys: PyTree
    carries: PyTree  # None where the engine was not asked for them


class Found(NamedTuple):
    """The results of one way to run a step. Without second derivatives, `gradient_along` is None."""

    outputs: Outputs
    loss: Array
    gradient: Arguments
    loss_along: Array | None  # derivative of the loss along a direction, in forward mode; None where there is none
    gradient_along: Arguments | None  # of the gradient: a Hessian-vector product


class Disagreement(AssertionError):
    """Two ways to run a step differ."""


def times_of(written: Written) -> Times:
    return {name: jnp.asarray(value) for name, value in written.times.items()}


class Way(NamedTuple):
    """One way to call `unroll`; `second` says whether second derivatives are compared too."""

    options: dict[str, Any]
    second: bool


def ways(seed: int, thorough: bool = True) -> dict[str, Way]:
    """The comparisons of one seed. Most of the time is compilation; only "auto" always has second derivatives."""
    more: dict[str, Any] = ({}, {"unroll": 2}, {"chunk": 2})[seed % 3]
    kept: dict[str, Any] = {"carries": True} if HAS_CARRIES else {}
    odd = bool(seed % 2)
    checkpoint, scan = {"checkpoint": 2} | (kept if odd else {}), {"engine": "scan"} | kept
    if not thorough:
        rest = {"scan": Way(scan, False)} if odd else {"auto, checkpoint": Way(checkpoint, False)}
        return {"auto": Way(kept | more if seed % 4 < 2 else {}, True), **rest}
    return {
        "auto": Way({}, True),
        "auto, carries": Way(kept | more, not odd),
        "auto, checkpoint": Way(checkpoint, odd),
        "scan": Way(scan, seed % 3 == 0),
    }


def by_lax_scan(written: Written, arguments: Arguments, times: Times, delta: PyTree | None = None) -> Outputs:
    """The reference: the step in `jax.lax.scan`, with explicit masks and resets.

    Args:
      delta: added to the carry at each of the T + 1 boundaries between steps in scan order, leaves `[T + 1, *batch,
        ...]`; an output that is part of the carry has it too.
    """
    step = written.make_step(arguments.closed)
    start = written.initial_carry(arguments.params, written.batch_shape)
    carry = written.carry(arguments) if written.given_carry else start
    shape = arguments.xs.shape[:-1]
    inside = jnp.ones(shape, bool)
    if "lengths" in times:
        inside = jnp.arange(shape[0]).reshape(-1, *(1 for _ in shape[1:])) < times["lengths"]
    counts = inside & times["mask"] if "mask" in times else inside
    resets = times["resets"] & inside if "resets" in times else jnp.zeros(shape, bool)
    xs = jnp.where(counts[..., None], arguments.xs, 0)
    if delta is not None:
        carry = jax.tree.map(lambda c, d: c + d[0], carry, delta)
    later = None if delta is None else jax.tree.map(lambda d: jnp.flip(d[1:], 0) if written.reverse else d[1:], delta)

    def body(carry: PyTree, at_t: Any):
        x, counts, resets, delta = at_t
        carry = rowwise(resets, start, carry)
        new, y = step(arguments.params, carry, x)
        new = rowwise(counts, new, carry)
        if delta is not None:
            new = jax.tree.map(jnp.add, new, delta)
            leaves, tree = jax.tree.flatten(y)
            own = jax.tree.leaves(new)
            y = tree.unflatten(
                [leaf if home is None else own[home] for leaf, home in zip(leaves, written.homes, strict=True)]
            )
        return new, (rowwise(counts, y, jax.tree.map(jnp.zeros_like, y)), new)

    carry, (ys, carries) = lax.scan(body, carry, (xs, counts, resets, later), reverse=written.reverse)
    return Outputs(carry, ys, carries)


def rowwise(flags: Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    return jax.tree.map(
        lambda a, b: jnp.where(flags.reshape(flags.shape + (1,) * (a.ndim - flags.ndim)), a, b), on_true, on_false
    )


def by_unroll(written: Written, options: dict[str, Any], arguments: Arguments, times: Times) -> Outputs:
    given = rnnjax.unroll(
        cell=written.cell(arguments.closed),
        params=arguments.params,
        xs=arguments.xs,
        carry=written.carry(arguments),
        reverse=written.reverse,
        **times,
        **options,
    )
    return Outputs(*given, *([None] * (3 - len(given))))


def weigh(outputs: PyTree) -> Array:
    """A weighted sum of all real and imaginary parts of the outputs."""
    total = jnp.zeros(())
    for i, leaf in enumerate(jax.tree.leaves(outputs)):
        parts = (leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,)
        for j, part in enumerate(parts):
            if jnp.issubdtype(part.dtype, jnp.floating):
                w = np.random.default_rng([i, j]).normal(size=part.shape)
                total = total + jnp.sin(w * part).sum()
    return total


def program(
    run: Callable[[Arguments, Times], Outputs], second: bool = True, forward: bool = True
) -> Callable[..., Found]:
    """All compared values in one compiled program `(arguments, direction, times, share of the carries)`.

    Args:
      second: also the derivative of the gradient, in forward mode over reverse mode.
      forward: where not, the derivative of the loss in forward mode.
    """

    def all_of_it(arguments: Arguments, direction: Arguments, times: Times, share: Array) -> Found:
        def loss(arguments: Arguments) -> tuple[Array, Outputs]:
            outputs = run(arguments, times)
            return weigh(outputs[:2]) + share * weigh(outputs.carries), outputs

        def value_and_gradient(arguments: Arguments):
            (value, outputs), gradient = jax.value_and_grad(loss, has_aux=True)(arguments)
            return (value, gradient), outputs

        if second:
            (value, gradient), along, outputs = jax.jvp(value_and_gradient, (arguments,), (direction,), has_aux=True)
            return Found(outputs, value, gradient, *along)
        (value, gradient), outputs = value_and_gradient(arguments)
        along = jax.jvp(loss, (arguments,), (direction,), has_aux=True)[1] if forward else None
        return Found(outputs, value, gradient, along, None)

    return jax.jit(all_of_it, compiler_options=quickly())


def differ(got: PyTree, expected: PyTree, tolerance: float) -> str | None:
    """Where two trees differ by more than this, relative to the leaf's largest number or 1, or `None`."""
    got_leaves, got_tree = jax.tree.flatten(got)
    expected_tree = jax.tree.structure(expected)
    if got_tree != expected_tree:
        return f"the trees {got_tree} and {expected_tree}"
    for (path, b), a in zip(jax.tree.leaves_with_path(expected), got_leaves, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        where = jax.tree_util.keystr(path) or "the value"
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return f"{where}: {a.dtype} {a.shape} and {b.dtype} {b.shape}"
        allowed = max(tolerance, SINGLE) if b.dtype == np.float32 else tolerance
        scale = max(1.0, float(np.abs(b).max(initial=0)))
        worst = float(np.abs(a - b).max(initial=0)) / scale
        if not worst <= allowed:
            return f"{where}: {worst:.1e} (allowed {allowed:.0e})"
    return None


def check(way: str, what: str, got: PyTree, expected: PyTree, tolerance: float) -> None:
    where = differ(got, expected, tolerance)
    if where is not None:
        raise Disagreement(f"{way}: {what} differ at {where}")


OWN_SLOPES = {"custom_jvp", "custom rule of x"}
"""Functions whose rule is not their derivative. JAX drops a `custom_jvp` rule from what it linearizes, so that the
derivative of a gradient is that of no function: only first derivatives say whether an engine keeps the rule."""


def hold_to_scan(written: Written, thorough: bool = True) -> None:
    """Compares every way to run the step with the reference, also with NaN in the padding."""
    arguments, direction = written.arguments(), written.arguments(salt=1)
    times = times_of(written)
    has_second = not OWN_SLOPES & written.features
    forward = "custom_vjp" not in written.features  # a custom_vjp has no forward mode
    reference = program(functools.partial(by_lax_scan, written), has_second, forward)
    shares = {False: jnp.zeros(()), True: jnp.ones(())}
    expected: dict[bool, Found] = {}
    for way, (options, second) in ways(written.seed, thorough).items():
        kept = "carries" in options
        if kept not in expected:
            expected[kept] = reference(arguments, direction, times, shares[kept])
        run = program(functools.partial(by_unroll, written, options), second and has_second, second and forward)
        got, right = run(arguments, direction, times, shares[kept]), expected[kept]
        if not kept:
            right = right._replace(outputs=right.outputs._replace(carries=None))
        check(way, "outputs", got.outputs, right.outputs, VALUES)
        check(way, "losses", got.loss, right.loss, VALUES)
        check(way, "gradients", got.gradient, right.gradient, DERIVATIVES)
        if got.loss_along is not None and forward:
            check(way, "derivatives in forward mode", got.loss_along, right.loss_along, DERIVATIVES)
        if got.gradient_along is not None:
            check(way, "second derivatives", got.gradient_along, right.gradient_along, DERIVATIVES)
        if written.hidden.any():
            fills = [jnp.where(written.hidden[..., None], fill, arguments.xs) for fill in (0.0, jnp.nan)]
            clean, dirty = (run(arguments._replace(xs=xs), direction, times, shares[kept]) for xs in fills)
            try:
                assert_identical(dirty, clean)
            except AssertionError as error:
                raise Disagreement(f"{way}: NaN in masked inputs is not inert: {error}") from error


def hold_instruments(written: Written, thorough: bool = True) -> None:
    """The adjoint with masks and resets; Jacobians and exponents of the whole sequence, forwards."""
    if any(leaf.kind in ("counter", "complex") for leaf in written.leaves):
        return  # such a carry has no norm
    if thorough or written.seed % 4 in (0, 1):
        hold_adjoint(written)
    if "custom_vjp" in written.features:
        return  # no forward mode
    if thorough or written.seed % 4 in (2, 3):
        hold_jacobians(written)


def hold_adjoint(written: Written) -> None:
    arguments = written.arguments()
    times = times_of(written)
    steps, batch_ndim = written.sizes[0], len(written.batch_shape)
    start = written.carry(arguments) if written.given_carry else None
    if start is None:
        start = written.initial_carry(arguments.params, written.batch_shape)
    nothing = jax.tree.map(lambda leaf: jnp.zeros((steps + 1, *leaf.shape)), start)

    def loss(weights: Array, ys: PyTree) -> Array:
        rows = [leaf for leaf in jax.tree.leaves(ys) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return sum(
            ((weights.reshape(-1, *(1 for _ in leaf.shape[1:])) * jnp.sin(leaf + i + 0.5)).sum() for i, leaf in
             enumerate(rows)), jnp.zeros(())
        )  # fmt: skip

    def both(arguments: Arguments, times: Times, weights: Array):
        found = gradients.adjoint(
            cell=written.cell(arguments.closed),
            params=arguments.params,
            xs=arguments.xs,
            loss=functools.partial(loss, weights),
            carry=written.carry(arguments),
            reverse=written.reverse,
            **times,
        )
        right = jax.grad(lambda delta: loss(weights, by_lax_scan(written, arguments, times, delta).ys))(nothing)
        if written.reverse:  # boundaries in input order: those of the reference are in scan order
            right = jax.tree.map(lambda leaf: jnp.flip(leaf, 0), right)
        factor = jnp.exp(found.log_norm)
        plain = jax.tree.map(
            lambda leaf: leaf * factor.reshape(factor.shape + (1,) * (leaf.ndim - factor.ndim)), found.direction
        )
        norms = jax.tree.map(lambda leaf: jnp.sqrt((leaf**2).reshape(*leaf.shape[: batch_ndim + 1], -1).sum(-1)), right)
        return (plain, jax.tree.map(jnp.exp, found.log_norm_by_part)), (right, norms)

    run = jax.jit(both, compiler_options=quickly())
    first, last, middle = (np.eye(steps)[t] for t in (0, steps - 1, steps // 2))
    for name, weights in {"all": np.linspace(1, -0.5, steps), "first": first, "last": last, "middle": middle}.items():
        got, right = run(arguments, times, jnp.asarray(weights))
        check("adjoint", f"gradients of the carry, loss of {name} steps,", got, right, INSTRUMENTS)


def hold_jacobians(written: Written) -> None:
    arguments = written.arguments()
    key = jax.random.key(0)

    def all_of_them(arguments: Arguments):
        given = {
            "cell": written.cell(arguments.closed),
            "params": arguments.params,
            "xs": arguments.xs,
            "carry": written.carry(arguments),
        }
        leading, spectrum = gradients.leading_exponent(**given, key=key), gradients.lyapunov_spectrum(**given, key=key)
        return gradients.jacobians(**given), explicit_jacobians(written, arguments), leading, spectrum

    got, right, leading, spectrum = jax.jit(all_of_them, compiler_options=quickly())(arguments)
    check("jacobians", "Jacobians", got, right, INSTRUMENTS)
    size = right.shape[-1]
    for k, found in ((1, leading.finite_time[..., None]), (size, spectrum.finite_time)):
        rows = np.asarray(jax.random.normal(key, (*written.batch_shape, k, size), FLOAT64))
        growth, known = growth_of_rows(np.asarray(right), rows)
        what = "leading_exponent" if k == 1 else "lyapunov_spectrum"
        check(what, "growth rates", np.where(known, found, 0), np.where(known, growth, 0), 1e-8)


FLOAT64 = jnp.dtype("float64")


def explicit_jacobians(written: Written, arguments: Arguments) -> Array:
    """`[T, *batch, n, n]` by `jax.jacfwd` of the step, each row's own block."""
    step = written.make_step(arguments.closed)
    carry = written.carry(arguments) if written.given_carry else None
    if carry is None:
        carry = written.initial_carry(arguments.params, written.batch_shape)
    rows, batch_ndim = int(np.prod(written.batch_shape)), len(written.batch_shape)

    def flat(tree: PyTree) -> Array:
        leaves = [leaf.reshape(rows, -1) for leaf in jax.tree.leaves(tree)]
        return jnp.concatenate(leaves, axis=-1)

    def tree_of(matrix: Array) -> PyTree:
        leaves, tree = jax.tree.flatten(carry)
        ends = np.cumsum([int(np.prod(leaf.shape[batch_ndim:])) for leaf in leaves])[:-1]
        parts = jnp.split(matrix, ends, axis=-1)
        return tree.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])

    def one(carry: Array, x: Array):
        def after(carry: Array) -> Array:
            return flat(step(arguments.params, tree_of(carry), x)[0])

        whole = jax.jacfwd(after)(carry)  # [rows, n, rows, n]
        return after(carry), jnp.stack([whole[row, :, row] for row in range(rows)])

    matrices = lax.scan(one, flat(carry), arguments.xs)[1]
    return matrices.reshape(matrices.shape[0], *written.batch_shape, *matrices.shape[-2:])


def growth_of_rows(matrices: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gram-Schmidt in NumPy: log growth `[T, *batch, k]` of orthonormal rows in each step, and where it is known.

    A row that a step leaves with less than 1e-5 of its length, and all rows after it, are not known from then on.
    """

    def orthonormal(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        done, lengths, certain = [], [], []
        for i in range(rows.shape[-2]):
            row = rows[..., i, :]
            before = np.linalg.norm(row, axis=-1)
            for _ in range(2):
                for other in done:
                    row = row - (row * other).sum(-1, keepdims=True) * other
            left = np.linalg.norm(row, axis=-1)
            lengths.append(left)
            certain.append(left > 1e-5 * np.maximum(before, 1e-3))
            done.append(row / np.where(left > 0, left, 1)[..., None])
        return np.stack(done, -2), np.stack(lengths, -1), np.logical_and.accumulate(np.stack(certain, -1), -1)

    rows, _, known = orthonormal(rows)
    growth, all_known = [], []
    for matrix in matrices:
        rows, lengths, certain = orthonormal(rows @ np.swapaxes(matrix, -1, -2))
        known = known & certain
        growth.append(np.log(np.where(known, lengths, 1)))
        all_known.append(known)
    return np.stack(growth), np.stack(all_known)


def drawn(seed: int) -> Written:
    """The step of a seed, or the next attempt if the reference is not finite or too large."""
    for attempt in range(20):
        written = write(seed, attempt)
        arguments = written.arguments()
        times = times_of(written)
        outputs = jax.jit(functools.partial(by_lax_scan, written), compiler_options=quickly())(arguments, times)
        numbers = np.concatenate([np.abs(np.asarray(leaf)).ravel() for leaf in jax.tree.leaves(outputs)])
        if np.isfinite(numbers).all() and numbers.max() < 100:
            return written
    raise RuntimeError(f"no step of seed {seed} stays finite")


def engine_of(written: Written) -> tuple[str, str]:
    """The engine that "auto" chooses, and why."""
    arguments = written.arguments()
    times: dict[str, Any] = written.times
    layer = rnnjax.explain(
        cell=written.cell(arguments.closed),
        params=arguments.params,
        xs=arguments.xs,
        carry=written.carry(arguments),
        reverse=written.reverse,
        **times,
    ).layers[0]
    return layer.engine, layer.why


def hold(seed: int, thorough: bool = True) -> tuple[Written, str, str]:
    """Tests the step of a seed, raises if anything differs, and returns the engine and the reason.

    Args:
      thorough: test every way to run it and all of `rnnjax.gradients`, as the command does; else a part.
    """
    written = drawn(seed)
    hold_to_scan(written, thorough)
    hold_instruments(written, thorough)
    return written, *engine_of(written)


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.unroll.random_steps", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("count", type=int, help="how many steps")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, default=0, help="added to every seed times 100000: another set of steps")
    parser.add_argument("--stop", action="store_true", help="stop at the first failure")
    parser.add_argument("--show", action="store_true", help="print every step's source, engine and reason")
    options = parser.parse_args(None if arguments is None else list(arguments))
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    if not HAS_CARRIES:
        print("`unroll` has no `carries` yet: the carries of single steps are not compared")
    failed, engines = [], collections.Counter()
    began = time.monotonic()
    for i in range(options.count):
        seed = options.seed * 100_000 + options.start + i
        before = time.monotonic()
        try:
            written, engine, why = hold(seed)
        except Exception as error:
            failed.append(seed)
            where = "" if isinstance(error, Disagreement) else traceback.format_exc(limit=-3)
            print(f"FAILED {seed}: {type(error).__name__}: {error}\n{where}{drawn(seed)}", flush=True)
            if options.stop:
                break
        else:
            engines[engine] += 1
            if options.show or options.count == 1:
                print(f"{written}\n# {engine}: {why}")
            print(f"{seed}: {engine}, {time.monotonic() - before:.1f} s", flush=True)
        jax.clear_caches()
    by_engine = ", ".join(f"{count} {engine}" for engine, count in engines.most_common())
    tried = sum(engines.values()) + len(failed)
    print(
        f"{tried} steps: {sum(engines.values())} agree; engines: {by_engine}; {time.monotonic() - began:.0f} s"
        + (f"; failed: {' '.join(map(str, failed))}" if failed else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
