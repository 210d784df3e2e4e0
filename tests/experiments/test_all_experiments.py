"""What holds for every experiment: what it draws, that it goes on, and that a row knows the code it comes from.

Each is run once, as small as its options allow, by a call from Python.
"""

import ast
import importlib
import json
from pathlib import Path
from typing import Any

import jax
import pytest

from experiments import all as everything
from experiments import lab
from experiments.lab import identity, run, style
from experiments.lab.options import WHERE
from tests.experiments.tracing import entered_definitions

ROOT = Path(__file__).resolve().parents[2]

_LEARNING = {"cells": ("elman",), "clipping": (True,), "seeds": 1, "hidden_size": 4, "updates": 2, "look_every": 1}
SMALL: dict[str, dict[str, Any]] = {
    "adding": _LEARNING | {"steps": 5},
    "bestiary": {
        "cells": ("lru",), "scales": (0.5,), "hidden_size": 4, "seeds": 1, "steps": 20, "updates": 2,
        "parameters": 60, "length": 10, "batch": 2, "tasks": ("adding",),
    },
    "bifurcation": {"scales": (0.8, 1.5), "eigenvalues": (1.0, -0.5), "starts": 8, "steps": 40},
    "cliff": {"points": 5, "updates": 3, "starts": 2, "steps": 8},
    "collapse": {"lengths": (10,), "seeds": 1, "updates": 2, "hidden_size": 4},
    "copy_memory": _LEARNING | {"delay": 2},
    "curse_of_memory": {"sequences": 4, "steps": 60, "lambdas": (0.0, 0.5), "teachers": (0.5,)},
    "decision": {"seeds": 1, "hidden_size": 4, "steps": 20, "updates": 2, "batch": 2, "starts": 8},
    "digits": _LEARNING,
    "driven_edge": {
        "variances": (0.01, 1.0), "hidden_size": 8, "steps": 40, "seeds": 2, "map_size": 8, "map_variances": 2,
        "map_gains": (0.8, 2.0), "map_steps": 40,
    },
    "flip_flop": {
        "seeds": 1, "hidden_size": 4, "steps": 5, "updates": 2, "batch": 2, "starts": 16, "compared": 4,
        "iterations": 20,
    },
    "float_horizon": {"cells": ("tanh",), "scales": (0.5,), "hidden_size": 4, "seeds": 1, "steps": 40},
    "flossing": {
        "delays": (2,), "hidden_size": 4, "exponents": 2, "seeds": 1, "updates": 2, "floss_updates": 2,
        "floss_steps": 4,
    },
    "gradient_decay": {"cells": ("linear", "lstm"), "scales": (0.5,), "lengths": (5, 8), "seeds": 2, "hidden_size": 4},
    "learning_rules": {
        "tasks": ("cart_pole",), "cells": ("leaky",), "rules": ("RTRL", "Immediate"), "lags": (2,), "length": 10,
        "steps": 100, "rows": 1, "hidden_size": 2, "seeds": 1, "rates": (3e-3,), "optimizers": ("rmsprop",),
        "bias_lags": 2, "bias_seeds": 1,
    },
    "linear_spectra": {"hidden_size": 4, "steps": 100, "seeds": 2, "draws": 4, "lags": 5, "scales": (0.5,)},
    "lstm_memory": {"inits": ("1", "chrono"), "t_max": 5, "hidden_size": 4, "steps": 20, "seeds": 2},
    "newton": {"cells": ("elman",), "scales": (0.5,), "lengths": (20,), "hidden_size": 2, "seeds": 1},
    "reproduce": {"only": ("orthogonal-exponents",), "quick": True},
    "statland": {"seeds": 2, "steps": 20},
    "stocks": {
        "cells": ("gru",), "seeds": 1, "folds": 2, "control_folds": 0, "updates": 2, "hidden_size": 4,
        "clipping": (True,), "days": 20,
    },
    "tanh_phase_diagram": {
        "gains": (0.5, 2.0), "spectrum_gains": (2.0,), "hidden_size": 8, "spectrum_sizes": (6,), "steps": 40,
        "spectrum_steps": (40,), "seeds": 2,
    },
    "temporal_order": {
        "lengths": (10,), "initialisations": ("smart tanh",), "seeds": 1, "updates": 100, "hidden_size": 4, "batch": 4,
    },
    "text": _LEARNING | {
        "batch": 2, "steps": 8, "large_hidden_size": 8, "large_updates": 2, "large_batch": 2, "train_characters": 4000,
        "test_characters": 500, "sample": 5,
    },
    "vowels": _LEARNING,
    "waterfall": {
        "cells": ("tanh",), "scales": (0.5, 1.0), "seeds": 1, "steps": 3, "hidden_size": 4, "updates": 2, "batch": 2,
    },
}  # fmt: skip
"""Options of the smallest run."""


@pytest.fixture(scope="module", params=sorted(SMALL))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def finished(name: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small run of one experiment: its folder, its rows, and what its measuring functions entered."""
    folder, entered = tmp_path_factory.mktemp(name), {}
    rows = lab.Run.rows

    def watched(self: lab.Run, function: Any, *args: Any, **kwargs: Any) -> Any:
        jax.clear_caches()  # what was traced before would not be entered again
        with entered_definitions() as found:
            done = rows(self, function, *args, **kwargs)
        entered.setdefault(run.name_of(function), set()).update(found)
        return done

    figures = []
    render = style.render
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setattr(lab.Run, "rows", watched)
        patch.setattr(style, "render", lambda fig: figures.append(fig) or render(fig))
        made = everything.experiment(name)(out=folder, **SMALL[name])
    return {"folder": folder, "rows": made, "entered": entered, "figures": figures}


def test_every_experiment_is_here() -> None:
    assert sorted(SMALL) == everything.experiments()


def test_a_row_knows_all_code_that_made_it(finished: dict[str, Any]) -> None:
    """Whatever a measuring function entered, its identity has reached; found by running it, not by reading it."""
    assert finished["entered"]
    for function, entered in finished["entered"].items():
        reached = {(module, name) for module, names in identity.reach(function).items() for name in names}
        own = {(m, n) for m, n in entered if not m.startswith("experiments.lab") and m != "tests.experiments.tracing"}
        assert own - reached == set(), function
        assert len(own) > 1, function


def test_a_changed_constant_makes_rows_stale_and_one_in_a_figure_does_not(name: str, finished: dict[str, Any]) -> None:
    """Of the experiment's own files, one constant of each definition that has any is changed in turn."""
    experiment = everything.experiment(name)
    before = {function: identity.code_sha256(function) for function in finished["entered"]}
    drawn, measured = identity.reach(experiment.draw), identity.reach(experiment.measure)
    stale = kept = 0
    for module in sorted({each for each in drawn | measured if each.startswith(f"experiments.{name}")}):
        names = drawn.get(module, set()) | measured.get(module, set())
        path = Path(str(importlib.import_module(module).__file__))
        text = path.read_text()
        for node in ast.parse(text).body:
            numbers = [n for n in ast.walk(node) if isinstance(n, ast.Constant) and type(n.value) in (int, float)]
            if getattr(node, "name", None) not in names or not numbers:
                continue
            number = numbers[0]
            lines = text.splitlines(keepends=True)
            line = lines[number.lineno - 1].encode()
            changed = line[: number.col_offset] + b"77" + line[number.end_col_offset :]
            lines[number.lineno - 1] = changed.decode()
            sources = {path: "".join(lines)}
            for function, sha256 in before.items():
                reached = node.name in identity.reach(function).get(module, ())  # pyright: ignore
                assert (identity.code_sha256(function, sources) != sha256) == reached, (function, node.name)  # pyright: ignore
                stale, kept = stale + reached, kept + (not reached)
    shared = name in ("adding", "copy_memory", "digits", "vowels")  # drawn, and mostly measured, by `learning`
    assert (stale and kept) or shared, "one constant at least in what is measured, and one in what is drawn"


def test_the_same_run_again_computes_nothing(name: str, finished: dict[str, Any]) -> None:
    before = json.loads((finished["folder"] / "summary.json").read_text())
    with jax.numpy_dtype_promotion("standard"):
        everything.experiment(name)(out=finished["folder"], **SMALL[name])
    after = json.loads((finished["folder"] / "summary.json").read_text())
    assert after["rows_computed_count"] == 0 and after["rows_reused_count"] == before["rows_computed_count"] > 0
    assert everything.stale(name, finished["folder"]) == ""


def test_what_it_draws_can_be_read(finished: dict[str, Any]) -> None:
    """Every figure has a title, words and a caption, and every axis that has numbers says what they are."""
    summary = json.loads((finished["folder"] / "summary.json").read_text())
    assert finished["figures"] and len(finished["figures"]) == len(summary["figures"])
    for figure, said in zip(finished["figures"], summary["figures"], strict=True):
        assert (finished["folder"] / said["png"]).read_bytes().startswith(b"\x89PNG")
        assert len(said["alt"]) > 20 and len(said["caption"]) > 10, said["png"]
        panels = [ax for ax in figure.axes if ax.axison and ax.get_label() != "<colorbar>"]
        titles = [ax.get_title(loc="left") + ax.get_title() for ax in panels]
        assert all(titles) or figure.get_suptitle(), said["png"]
        assert len(panels) < 2 or all(title.startswith("(") for title in titles), (said["png"], titles)
        assert any(ax.get_xlabel() for ax in panels) or not panels, said["png"]


@pytest.mark.parametrize("name", sorted(SMALL))
def test_options_are_documented(name: str) -> None:
    """--help says something of each option, and the committed run's options are still there."""
    import dataclasses

    options = everything.experiment(name).options
    fields = {field.name for field in dataclasses.fields(options)}
    committed = json.loads((ROOT / "docs" / name / "config.json").read_text())["options"]
    assert set(committed) <= fields | set(WHERE)
    documented = {
        node.target.id
        for cls in options.__mro__
        if cls is not object
        for body in [ast.parse(Path(str(importlib.import_module(cls.__module__).__file__)).read_text())]
        for found in ast.walk(body)
        if isinstance(found, ast.ClassDef)
        for node, doc in zip(found.body, found.body[1:], strict=False)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant)
    }
    assert fields <= documented
