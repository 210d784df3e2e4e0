"""One call of `unroll` or `adjoint` enters only a few files."""

import inspect
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

import rnnjax

LIBRARY = Path(rnnjax.__file__).parent
MOST = 15


def test_one_call_enters_few_files():
    """Counts only functions: the bodies of modules and classes run once, at import."""

    class New(rnnjax.Elman):
        """A cell that no other test has traced or compiled."""

    files: set[str] = set()

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_flags & inspect.CO_NEWLOCALS:
            files.add(frame.f_code.co_filename)

    cell, adjoint = New(hidden_size=2), rnnjax.gradients.adjoint  # which loads a submodule
    xs = jnp.ones((3, 2))
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        params = cell.init(jax.random.key(0), 2)
        rnnjax.unroll(cell, params, xs)
        adjoint(cell, params, xs, lambda ys: ys[-1].sum())
    finally:
        sys.setprofile(before)
    entered = {str(Path(file).relative_to(LIBRARY)) for file in files if Path(file).is_relative_to(LIBRARY)}
    assert {"_unroll/contract.py", "_unroll/reading.py", "gradients/adjoint.py"} <= entered  # it did look
    assert len(entered) <= MOST, sorted(entered)
