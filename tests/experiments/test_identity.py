"""The identity of a measuring function: what it can reach counts, however it is named; nothing else does."""

import functools
import importlib
import math
import re
import sys
import textwrap
import types

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from experiments.lab import identity
from rnnjax import gradients
from tests.experiments.tracing import entered_definitions

MEASURE = "tricky.main:measure"

# Numbers 1xx count for `tricky.main.measure`; numbers 9xx do not.
PACKAGE = {
    "__init__": """
        import importlib
        from typing import TYPE_CHECKING
        from tricky.exported import exported
        if TYPE_CHECKING:
            from tricky.by_type import typed
        _LATER = {"late": "lazy", "typed": "by_" + "type"}
        def of_the_package():
            from tricky import submodule
            return submodule.own()
        def __getattr__(name):
            if name not in _LATER:
                raise AttributeError(name)
            return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
        """,
    "exported": """
        def exported(): return 101
        def beside(): return 901
        """,
    "lazy": """
        def late(): return 102
        def beside(): return 902
        """,
    "by_type": "def typed(): return 103",
    "submodule": "def own(): return 127",
    "names": """
        def aliased(): return 104
        def by_chain(): return 105
        def inside(): return 106
        def relative(): return 107
        def renamed(): return 903
        """,
    "starred": "def starred(): return 108",
    "by_value": "def computed(): return 109",
    "loaded": "LOADED = 110",
    "chosen": "CHOSEN = ALSO = 125",
    "dynamic": """
        def hidden(): return 126
        def dynamic(): return globals()["hid" + "den"]()
        """,
    "rules": """
        TABLE = {}
        def register(name):
            def keep(function):
                TABLE[name] = function
                return function
            return keep
        """,
    "plugins": """
        from tricky import rules
        from tricky.rules import TABLE
        @rules.register("decorated")
        def plugin(): return 111
        TABLE["assigned"] = lambda: 112
        for key in ("looped",): TABLE[key] = lambda: 113
        def beside(): return 904
        if __name__ == "__main__":
            print(905)
        """,
    "main": """
        '''What is measured.'''
        import functools
        from importlib import import_module
        import tricky, tricky.names
        import tricky.names as short
        from tricky import by_value, dynamic, plugins, rules
        from .names import relative as renamed
        from tricky.starred import *
        try:
            from tricky.chosen import ALSO, CHOSEN
        except ImportError:
            CHOSEN = 114

        STEP: int = 115
        LOCAL = {"a": lambda: 116}
        LOCAL["b"] = lambda: 117
        OPTIONS = {"steps": 906}
        class Base:
            def inherited(self): return 118
        class Cell(Base):
            field: int = 119
            def step(self, by=STEP): return by + self.inherited()
        def checked(limit):
            def wrap(function):
                @functools.wraps(function)
                def inner(*args): return min(function(*args), limit)
                return inner
            return wrap
        @checked(OPTIONS)
        class Options: size = 907
        @functools.singledispatch
        def shown(x): return 120
        @shown.register
        def _(x: int): return 121
        @checked(122)
        def nested(): return (lambda: 123)()
        def drawn(): return 908
        def measure(key: Options) -> Options:
            '''Docstring.'''
            from tricky.names import inside
            drawn = 124  # a variable
            total = tricky.exported() + tricky.late() + tricky.typed() + tricky.names.by_chain() + short.aliased()
            total += inside() + renamed() + starred() + getattr(by_value, "comp" + "uted")() + drawn + CHOSEN + ALSO
            total += import_module("tricky.loaded").LOADED + Cell().step() + shown(1) + nested() + dynamic.dynamic()
            return total + tricky.of_the_package() + sum(f() for table in (rules.TABLE, LOCAL) for f in table.values())
        """,
}


@pytest.fixture(scope="module")
def tricky(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code")
    (folder / "tricky").mkdir()
    for name, text in PACKAGE.items():
        (folder / "tricky" / f"{name}.py").write_text(textwrap.dedent(text))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder / "tricky"


def test_a_number_counts_if_it_can_be_reached(tricky):
    before, counted, others = identity.code_sha256(MEASURE), set(), set()
    for path in tricky.glob("*.py"):
        for number in re.findall(r"\b[19]\d\d\b", path.read_text()):
            changed = identity.code_sha256(MEASURE, {path: path.read_text().replace(number, "700")}) != before
            (counted if changed else others).add(number)
    assert sorted(counted) == [str(number) for number in range(101, 128)]
    assert sorted(others) == [str(number) for number in range(901, 909)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# a variable", "# another comment"),
        ("'Docstring.'", "'Another.'"),
        ("'What is measured.'", "'What is measured here.'"),
        ("def nested():", "def nested():\n    'New.'\n   "),
        ("total = ", "total = \\\n        "),
        ("field: int = 119", "field: int = 119\n    'Of the field.'"),
        ("class Base:", "import jax.numpy\nclass Base:"),
        ("OPTIONS = {", "MORE = 1\nOPTIONS = {1: 2, "),
    ],
)
def test_layout_does_not_count(tricky, old, new):
    text = (tricky / "main.py").read_text()
    assert old in text
    assert identity.code_sha256(MEASURE, {tricky / "main.py": text.replace(old, new)}) == identity.code_sha256(MEASURE)


def test_all_that_is_entered_is_reached(tricky):
    measure = importlib.import_module("tricky.main").measure
    with entered_definitions(tricky) as entered:
        measure(None)
    assert {("tricky.main", "measure"), ("tricky.main", "_"), ("tricky.plugins", "plugin")} < entered
    assert entered <= pairs(measure)


def test_a_function_is_found_however_it_is_given(tricky, monkeypatch):
    main = importlib.import_module("tricky.main")
    for given in (
        main.measure,
        functools.partial(main.measure, 1),
        jax.jit(main.measure),
        functools.cache(main.measure),
    ):
        assert identity.code_sha256(given) == identity.code_sha256(MEASURE)
    assert identity.reach(main.Cell().step) == identity.reach("tricky.main:Cell") == identity.reach(main.Cell())
    assert identity.reach(main.LOCAL["a"])["tricky.main"] >= {
        "drawn",
        "LOCAL",
        identity.EFFECTS,
    }  # a lambda: the module
    assert identity.code_sha256(functools.partial(jax.jit, main.measure)) == identity.code_sha256(MEASURE)
    spec = types.SimpleNamespace(__spec__=types.SimpleNamespace(name="tricky.main"))
    monkeypatch.setitem(sys.modules, "__main__", spec)
    monkeypatch.setattr(main.measure, "__module__", "__main__")
    assert identity.code_sha256(main.measure) == identity.code_sha256(MEASURE)
    with pytest.raises(ValueError, match="source"):
        identity.code_sha256(math.sin)


def test_all_that_the_library_enters_is_reached():
    cell = rnnjax.LSTM(3)
    params = jax.eval_shape(lambda key: cell.init(key, 2), jax.random.key(0))
    with entered_definitions() as entered:
        jax.eval_shape(lambda params, xs: gradients.adjoint(cell, params, xs, jnp.sum), params, jnp.ones((5, 2)))
    reached = pairs(gradients.adjoint) | pairs(rnnjax.LSTM)
    assert ("rnnjax.cells.lstm", "LSTM") in entered and len(entered) > 40
    assert entered <= reached


def test_a_measurement_does_not_reach_what_shows_it():
    reached = pairs("experiments.lstm_memory:memory")
    assert ("rnnjax.gradients.adjoint", "adjoint") in reached
    assert not reached & {("experiments.lstm_memory", name) for name in ("measure", "draw", "Options", "experiment")}
    assert not any(module.startswith("experiments.lab") for module, _ in reached)


def pairs(function):
    return {(module, name) for module, names in identity.reach(function).items() for name in names}
