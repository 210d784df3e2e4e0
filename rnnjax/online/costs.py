"""What a rule costs: the memory of its trace and the operations of its step, before anything runs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax._unroll.arguments import shapes_of
from rnnjax._unroll.equations import bytes_of
from rnnjax._unroll.explanation import matmul_flops
from rnnjax.cell import Cell, PyTree
from rnnjax.online.moment import row_shapes
from rnnjax.online.rule import Rule


class Cost(NamedTuple):
    """What a rule costs, for all rows together.

    Attributes:
      trace_bytes: the memory of the trace, at all lengths of time.
      flops: operations of one step: 2 m n k for a product of matrices, one for each number of an elementwise result; as
        the step is written, before the compiler merges what is computed twice.
      step_flops: the same for the cell's step alone, without any gradient.
    """

    trace_bytes: int
    flops: int
    step_flops: int


def explain(
    cell: Cell,
    params: PyTree,
    rule: Rule,
    batch_shape: tuple[int, ...] = (),
    *,
    input_size: int | None = None,
) -> Cost:
    """The cost of a rule for a cell.

    Args:
      cell, params, batch_shape, input_size: as in `Rule.init`; the parameters may be `jax.ShapeDtypeStruct`s.
      rule: such as `RTRL()`.
    Raises:
      As `Rule.init`.

    Example: an LSTM of 64 units has an exact trace of 9 MB a row.

      >>> import rnnjax
      >>> cell = rnnjax.LSTM(64)
      >>> params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 3))
      >>> from rnnjax.online import RTRL, SnAp
      >>> explain(cell, params, RTRL()).trace_bytes, explain(cell, params, SnAp(1)).trace_bytes
      (8912896, 139264)
    """
    params = shapes_of(params)
    _, row = row_shapes(cell, params, input_size)
    x = jax.ShapeDtypeStruct((*batch_shape, *row.shape), row.dtype)

    def ones(y: Any) -> Any:
        return jax.tree.map(jnp.ones_like, y)

    def step(params: PyTree, carry: PyTree, trace: Any, x: Any, key: Any) -> Any:
        return rule.step(cell, params, carry, trace, x, ones, key=key)

    carry = jax.eval_shape(lambda params: cell.initial_carry(params, batch_shape), params)
    trace = jax.eval_shape(lambda params: rule.init(cell, params, batch_shape, input_size=row.shape[-1]), params)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return Cost(
        trace_bytes=bytes_of(trace),
        flops=matmul_flops(step, params, carry, trace, x, key, elementwise=True),
        step_flops=matmul_flops(cell.step, params, carry, x, elementwise=True),
    )
