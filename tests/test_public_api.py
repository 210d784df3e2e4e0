"""The public names are complete, sorted and documented, and follow the protocols' signatures."""

import ast
import dataclasses
import inspect
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from rnnjax import Cell, _unroll, cells, sharding
from rnnjax._unroll import Composite
from rnnjax.training import SavedModel
from tests.registry import CELLS, COMPOSITES, PLAIN, D, sample

MODULES = [rnnjax, cells, _unroll]
SUBMODULES = [
    "cells",
    "converters",
    "dynamics",
    "flax",
    "gradients",
    "initializers",
    "online",
    "parallel",
    "processes",
    "sharding",
    "tasks",
    "training",
    "wrappers",
]


def in_order(names):
    """The linter's order: constants, then classes, then functions, each by name."""
    return sorted(names, key=lambda n: (0 if n.isupper() and len(n) > 1 else 1 if n[0].isupper() else 2, n))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_all_is_complete_and_sorted(module):
    """Every public name of the module that is not a submodule, and only names that exist."""
    public = {name for name, value in vars(module).items() if not name.startswith("_")}
    submodules = {name for name in public if isinstance(getattr(module, name), types.ModuleType)}
    assert public - submodules <= set(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
    assert module.__all__ == in_order(set(module.__all__))


def test_nothing_public_is_missing():
    """The package has the names of the first cells; all others are in `rnnjax.cells`."""
    assert {name for name in cells.__all__ if hasattr(rnnjax, name)} >= {"Elman", "LSTM", "GRU", "LSTMProjected"}
    assert {"Cell", "StepCell", "Stack", "Bidirectional", "unroll", *SUBMODULES} <= set(rnnjax.__all__)
    assert all(part.isdigit() for part in rnnjax.__version__.split("."))


@pytest.mark.parametrize("name", rnnjax.__all__)
def test_every_public_name_has_a_docstring(name):
    """Docstrings are written, not the generated ones of dataclasses. A `NamedTuple` may document its fields instead."""
    value = getattr(rnnjax, name)
    documented = bool(value.__doc__) and not value.__doc__.startswith(f"{name}(")
    if inspect.isclass(value) and issubclass(value, tuple) and not documented:
        fields = inspect.getsource(value).splitlines()[1:]
        assert all("# [" in field for field in fields if ":" in field), f"{name}: a shape comment for each field"
    else:
        assert documented, f"{name} has no docstring"


def test_every_initializer_has_a_docstring():
    """Every other public function is documented too, since modules are public."""
    for name, value in vars(rnnjax.initializers).items():
        if getattr(value, "__module__", "") == "rnnjax.initializers" and not name.startswith("_"):
            assert value.__doc__ and not value.__doc__.startswith(f"{name}("), f"{name} has no docstring"


@pytest.mark.parametrize("name", [n for n in rnnjax.__all__ if inspect.isfunction(getattr(rnnjax, n))])
def test_every_public_function_is_typed(name):
    """Every argument and the result are annotated."""
    signature = inspect.signature(getattr(rnnjax, name))
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())


def arguments(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def methods(protocol):
    return [name for name, value in vars(protocol).items() if inspect.isfunction(value) and not name.startswith("_")]


@pytest.mark.parametrize("method", methods(Cell))
@pytest.mark.parametrize("name", PLAIN)
def test_signatures_of_a_cell(name, method):
    """Names, order, kinds and defaults of arguments equal the protocol's."""
    assert arguments(getattr(type(CELLS[name]), method)) == arguments(getattr(Cell, method))


@pytest.mark.parametrize("method", methods(Composite))
@pytest.mark.parametrize("name", COMPOSITES)
def test_signatures_of_cells_put_together(name, method):
    assert arguments(getattr(type(CELLS[name]), method)) == arguments(getattr(Composite, method))


def test_the_protocol_has_the_methods_of_the_design():
    assert set(methods(Cell)) == {"init", "initial_carry", "step"}
    assert set(methods(Composite)) == {"init", "initial_carry", "unroll_parts"}


@pytest.mark.parametrize("cell", ["elman", "gru", "lstm", "lstm_projected"])
def test_module_functions_take_params_first(cell):
    """`functools.partial(rnnjax.lstm_step, params)` fits `jax.lax.scan`; `init` takes the key first."""
    for part in ("initial_carry", "step"):
        assert next(iter(inspect.signature(getattr(rnnjax, f"{cell}_{part}")).parameters)) == "params"
    names = list(inspect.signature(getattr(rnnjax, f"{cell}_init")).parameters)
    assert names[:3] == ["key", "input_size", "hidden_size"] and names[-1] == "dtype"


def over_time_functions():
    """Every public function whose first arguments are a cell, its parameters and a sequence, in whatever order."""
    for module in (rnnjax, rnnjax.gradients, sharding):
        for name in (name for name in dir(module) if not name.startswith("_")):
            value = getattr(module, name)
            if inspect.isfunction(value) and {"cell", "params", "xs"} <= set(inspect.signature(value).parameters):
                yield f"{module.__name__}.{name}", value


OVER_TIME = dict(over_time_functions())
over_time = pytest.mark.parametrize("name", OVER_TIME)


def test_what_runs_over_time():
    """The expected functions are found, over which the tests below run."""
    instruments = "adjoint adjoint_by_perturbation attribution attribution_by_lag finite_time_exponents flossing"
    instruments += " jacobians leading_exponent lyapunov_spectrum norm_ratios omega"
    assert set(OVER_TIME) == {"rnnjax.unroll", "rnnjax.explain", "rnnjax.sharding.unroll"} | {
        f"rnnjax.gradients.{name}" for name in instruments.split()
    }


@over_time
def test_one_order_over_time(name):
    """`cell, params, xs`, a `loss` where there is one, and everything else by keyword; `carry` is optional."""
    parameters = inspect.signature(OVER_TIME[name]).parameters
    positional = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == ["cell", "params", "xs", *(["loss"] if "loss" in parameters else [])]
    assert all(p.default is p.empty for p in parameters.values() if p.name in positional)
    assert parameters["carry"].kind is inspect.Parameter.KEYWORD_ONLY and parameters["carry"].default is None
    assert all(p.default is None for p in parameters.values() if p.name in ("lengths", "mask", "resets"))


@over_time
@pytest.mark.parametrize("cell", ["gru", "lstm", "stack"])
@pytest.mark.parametrize("given", [True, False], ids=["a carry", "None"])
def test_the_former_order_names_the_new_one(name, cell, given):
    """A carry as third argument (an array, a tuple or `None`) never runs as `xs`, whatever follows."""
    function, drawn = OVER_TIME[name], sample(cell)
    carry = drawn.carry if given else None
    order = ", ".join(p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY)
    order, short = order.split(", options")[0], name.split(".")[-1]
    loss = {"loss": jnp.sum} if "loss" in order else {}
    calls = [
        lambda: function(CELLS[cell], drawn.params, carry, drawn.xs, *loss.values()),
        lambda: function(CELLS[cell], drawn.params, carry, drawn.xs, **loss),
        lambda: function(CELLS[cell], drawn.params, carry, drawn.xs),
        lambda: function(CELLS[cell], drawn.params, carry, xs=drawn.xs, **loss),
    ]
    for call in calls:
        with pytest.raises(TypeError) as caught:
            call()
        assert str(caught.value) == (
            f"{short} takes ({order}, *, carry=None, ...); the carry is a keyword now: {short}({order}, carry=carry)"
        )


@over_time
@pytest.mark.parametrize("cell", ["lstm", "stack"])
def test_a_tuple_in_place_of_xs(name, cell):
    """The right number of arguments, but with a carry as the last one."""
    drawn = sample(cell)
    for carry in (drawn.carry, tuple(drawn.carry), None):
        with pytest.raises(TypeError, match=r"takes \(cell, params, xs, .*carry=carry\)"):
            OVER_TIME[name](CELLS[cell], drawn.params, carry)


@over_time
def test_every_argument_over_time_may_be_a_keyword(name):
    """A misspelt argument raises Python's own TypeError."""
    function = OVER_TIME[name]
    names = {p.name: None for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD}
    assert inspect.signature(function).bind(**names)
    if name != "rnnjax.sharding.unroll":  # passes its options on
        with pytest.raises(TypeError, match="unexpected keyword argument 'carrys'"):
            function(**names, carrys=None)


def test_a_saved_model_has_that_order_too():
    """A bound method, which has its cell and parameters."""
    model = rnnjax.Readout(CELLS["gru"], output_size=1)
    params, (_, carry, xs) = jax.eval_shape(lambda: model.init(jax.random.key(0), D)), sample("gru")
    saved: Any = SavedModel(model, params, {}, D)
    parameters = list(inspect.signature(saved).parameters.values())
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == ["xs"]
    found = parameters[-2]
    assert (found.name, found.kind.name, found.default) == ("carry", "KEYWORD_ONLY", None)
    calls: list[Any] = [lambda: saved(carry, xs), lambda: saved(xs, carry)]
    for call in calls:
        with pytest.raises(TypeError, match=r"takes \(xs, \*, carry=None, .*xs, carry=carry\)"):
            call()


def test_unroll_documents_its_options():
    """Three positional arguments; everything else is keyword-only with a neutral default."""
    parameters = inspect.signature(rnnjax.unroll).parameters
    options = {name: p.default for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert list(options)[:5] == ["carry", "lengths", "mask", "resets", "reverse"]
    assert options["reverse"] is False and options["engine"] == "auto"
    documented = {line.split(":")[0].strip() for line in (inspect.getdoc(rnnjax.unroll) or "").splitlines()}
    assert set(options) <= documented


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_is_a_frozen_dataclass(name):
    cell = CELLS[name]
    assert dataclasses.is_dataclass(cell)
    assert type(cell).__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]


def test_the_front_page_has_no_logic():
    """`rnnjax/__init__.py` is imports, a version, `__all__`, and the two hooks that load submodules on first use."""
    for node in ast.parse(inspect.getsource(rnnjax)).body[1:]:
        if isinstance(node, ast.If):
            assert ast.unparse(node.test) == "typing.TYPE_CHECKING"
            hidden, *rest = node.orelse
            assert isinstance(hidden, ast.FunctionDef) and hidden.name == "__getattr__" and not rest
            assert all(isinstance(inner, ast.ImportFrom) for inner in node.body)
        elif isinstance(node, ast.FunctionDef):
            assert node.name == "__dir__"
        else:
            assert isinstance(node, ast.Import | ast.ImportFrom | ast.Assign), ast.unparse(node)


@pytest.mark.parametrize("name", SUBMODULES)
def test_submodules_load_on_first_use(name):
    """`import rnnjax; rnnjax.tasks` works; the function `unroll` stays one whatever else is loaded."""
    code = f"import rnnjax; m = rnnjax.{name}; assert m.__name__ == 'rnnjax.{name}'; assert callable(rnnjax.unroll)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_a_misspelt_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'rnnjax' has no attribute 'LTSM'"):
        rnnjax.LTSM  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_dir_is_what_is_public():
    assert dir(rnnjax) == sorted([*rnnjax.__all__, "__version__"])


def test_exceptions_that_users_meet_are_public():
    assert issubclass(rnnjax.NotHoistable, ValueError)
    assert {"CheckpointError", "CheckpointWarning", "NonFiniteError"} <= set(rnnjax.training.__all__)
