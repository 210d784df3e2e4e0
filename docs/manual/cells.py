"""A page for each cell: its docstring, its parameters, its engines, its gradient, and who else has it."""

import functools
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import rnnjax
from manual import clear, write_page
from manual.docstrings import escape, to_rst
from manual.public import Name
from rnnjax import cells, gradients, wrappers

DOCS = Path(__file__).parents[1]
_BESTIARY = DOCS / "bestiary" / "summary.json"
_D, _H, _SHAPE = 3, 4, (8, 8)
FAMILIES = {
    "elman": "The first cells",
    "lstm_family": "The LSTM family",
    "gru_family": "The GRU family",
    "minimal": "Fewer gates",
    "several_paths": "Several paths",
    "constrained": "Constrained weights",
    "continuous": "Continuous time",
    "linear": "Linear in the state, gated",
    "diagonal": "Linear in the state, diagonal",
    "matrix_lstm": "A matrix as memory",
    "reservoir": "Fixed weights",
    "convolutional": "Convolutions",
}
_FIRST = ("elman", "lstm", "lstm_projected", "gru")  # a file each, with the equations in the file's docstring


class Page(NamedTuple):
    kind: type
    entries: tuple[str, ...]  # names in the catalogue


@functools.cache
def pages() -> tuple[Page, ...]:
    found: dict[type, list[str]] = {}
    for name in (*cells.catalogue(), *cells.convolutional()):
        found.setdefault(type(_make(name)), []).append(name)
    return tuple(Page(kind, tuple(entries)) for kind, entries in found.items())


def classes() -> frozenset[type]:
    return frozenset(page.kind for page in pages())


def write(folder: Path, names: dict[str, Name]) -> None:
    paths = {name.value: name for name in names.values() if name.is_class}
    curves = {line["cell"]: line for line in json.loads(_BESTIARY.read_text())["lines"]}
    written = {"index.rst"}
    for page in pages():
        written |= {f"{page.kind.__name__}.rst"}
        lines = list(_page(page, paths[page.kind]))
        found = [curves[name] for name in page.entries if name in curves]
        found += [_convolutional(name) for name in page.entries if name in cells.convolutional()]
        if found:
            picture = f"{page.kind.__name__}.svg"
            written |= {picture}
            _draw(folder / picture, found)
            lines += _gradient(picture, found)
        lines += _peers(page.entries)
        lines += _gates(page.kind)
        write_page(folder / f"{page.kind.__name__}.rst", "\n".join(lines))
    write_page(folder / "index.rst", "\n".join(_index(paths)))
    clear(folder, written)


def _make(entry: str) -> Any:
    if entry in cells.catalogue():
        return cells.catalogue()[entry](_H)
    return cells.convolutional()[entry](_H, _SHAPE)


def _family(kind: type) -> str:
    module = kind.__module__.rpartition(".")[2]
    return "elman" if module in _FIRST else module


def _index(paths: dict[Any, Name]) -> Iterator[str]:
    yield from ["Cells", "=====", ""]
    yield (
        f"The catalogue has {len(cells.catalogue())} cells for inputs ``[*batch, D]`` and "
        f"{len(cells.convolutional())} for images and the like, on {len(pages())} pages. "
        "``rnnjax.cells.catalogue()`` makes each by its name; :doc:`../guides/which_cell` helps to choose. "
        "The :doc:`bestiary <../experiments/bestiary>` compares them."
    )
    for family, title in FAMILIES.items():
        yield from ["", title, "-" * len(title), "", ".. list-table::", "   :widths: auto", ""]
        for page in pages():
            if _family(page.kind) == family:
                yield f"   * - :doc:`{page.kind.__name__}`"
                yield f"     - {', '.join(f'``{entry}``' for entry in page.entries)}"
                yield f"     - {escape(_summary(page.kind, paths))}"
    yield from ["", ".. toctree::", "   :hidden:", "", *(f"   {page.kind.__name__}" for page in pages()), ""]


def _summary(kind: type, paths: dict[Any, Name]) -> str:
    module = importlib.import_module(kind.__module__)
    if kind.__module__.rpartition(".")[2] in _FIRST:
        return " ".join((module.__doc__ or "").split("\n\n")[0].split())
    return paths[kind].summary


def _page(page: Page, name: Name) -> Iterator[str]:
    title = page.kind.__name__
    yield from [title, "=" * len(title), ""]
    listed = ", ".join(f"``{entry}``" for entry in page.entries)
    yield from [f"In the catalogue: {listed}.", ""]
    if page.kind.__module__.rpartition(".")[2] in _FIRST:
        yield from to_rst(inspect.getdoc(importlib.import_module(page.kind.__module__)) or "")
        yield ""
    yield from [f".. autoclass:: {name.path}", "", "Its methods are those of ``rnnjax.Cell``.", ""]
    yield from ["Parameters and carry", "--------------------", ""]
    yield from [f"For D = {_D} features and H = {_H} units, without batch axes:", ""]
    yield from [".. list-table::", "   :header-rows: 1", "", "   * - entry", "     - parameters", "     - carry"]
    for entry in page.entries:
        cell = _make(entry)
        params = jax.eval_shape(lambda cell=cell: cell.init(jax.random.key(0), _D))
        carry = jax.eval_shape(cell.initial_carry, params)
        yield from [f"   * - ``{entry}``", f"     - {_shapes(params)}", f"     - {_shapes(carry)}"]
    yield from ["", "Engines", "-------", ""]
    yield from [_engines(_make(page.entries[0])), ""]


def _shapes(tree: Any) -> str:
    leaves = jax.tree.leaves_with_path(tree)
    shown = [f"{jax.tree_util.keystr(path).lstrip('.')} {list(leaf.shape)}".strip() for path, leaf in leaves]
    return ", ".join(f"``{each}``" for each in shown) or "none"


def _engines(cell: Any) -> str:
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), _D))
    xs = jax.ShapeDtypeStruct((10, 2, *getattr(cell, "space", ()), _D), jnp.float32)
    layer = rnnjax.explain(cell, params, xs).layers[0]
    try:
        rnnjax.explain(cell, params, xs, engine="associative")
        linear = "; linear in its state, so ``associative`` runs it in parallel over time"
    except rnnjax.NotLinear:
        linear = ""
    why = escape(layer.why.removeprefix("auto: "))
    return f"``rnnjax.explain`` says what ``auto`` runs: ``{layer.engine}``, as {why}{linear}."


def _convolutional(entry: str) -> dict[str, Any]:
    """What the bestiary measures of the other cells: of one network of 4 x 4 places, over 100 steps."""
    cell, scales = cells.convolutional()[entry](_H, (4, 4)), [0.5, 0.7, 1.0, 1.4, 2.0]
    keys = jax.random.split(jax.random.key(0), 3)
    params, xs = cell.init(keys[0], _D), jax.random.normal(keys[1], (100, *cell.space, _D))
    direction = jax.random.normal(keys[2], (*cell.space, _H))

    def measured(scale: jax.Array) -> tuple[jax.Array, jax.Array]:
        network, scaled = wrappers.ScaledRecurrence(cell), wrappers.ScaledParams(params, scale)
        log_norm = gradients.adjoint(network, scaled, xs, lambda ys: (ys[-1] * direction).sum()).log_norm
        return (log_norm[0] - log_norm[90]) / 90, gradients.leading_exponent(network, scaled, xs, transient=10).exponent

    found = jax.jit(lambda each: jax.lax.map(measured, each))(jnp.array(scales))
    rate, exponent = (values.tolist() for values in found)
    line = {"cell": entry, "scaled": "W2", "scales": scales, "rate": rate, "exponent": exponent}
    origin = "Measured on one network of 4 x 4 places over 100 steps."
    return line | {"rate_as_drawn": rate[scales.index(1.0)], "origin": origin}


def _draw(path: Path, lines: list[dict[str, Any]]) -> None:
    if path.exists() and path.stat().st_mtime > max(made.stat().st_mtime for made in (_BESTIARY, Path(__file__))):
        return
    from experiments.lab import style

    path.parent.mkdir(parents=True, exist_ok=True)
    with style.plotting():
        fig, ax = style.figure(6.0, 3.0)
        ax.axhline(0.0, color=style.GREY, linewidth=1)
        for index, line in enumerate(lines):
            ax.plot(line["scales"], line["rate"], label=f"{line['cell']}, gradient", **style.line(2 * index))
            ax.plot(line["scales"], line["exponent"], label="leading exponent", **style.markers(2 * index + 1))
        ax.set_xlabel(f"scale of {lines[0]['scaled']}")
        ax.set_ylabel("growth [nats per step]")
        ax.legend()
        fig.savefig(path, metadata={"Date": None, "Creator": None})


def _gradient(picture: str, lines: list[dict[str, Any]]) -> Iterator[str]:
    yield from ["Gradient", "--------", ""]
    said = "; ".join(f"{line['cell']} {_rate(line['rate_as_drawn'])}" for line in lines)
    yield from [f".. figure:: {picture}", f"   :alt: Growth of the gradient against scale. As drawn: {said}.", ""]
    yield (
        f"   Growth of the gradient per step back (line), and the leading Lyapunov exponent of the forward pass "
        f"(markers), against the scale of {escape(lines[0]['scaled'])}, with white noise as input. Below 0 a gradient "
        f"vanishes, above it explodes. As drawn: {said}. "
        + lines[0].get("origin", "From the :doc:`bestiary <../experiments/bestiary>`.")
    )
    yield ""


def _rate(value: float | None) -> str:
    return "no gradient arrives" if value is None else f"{value:+.3f} nats per step".replace("-", "−")


def _peers(entries: tuple[str, ...]) -> Iterator[str]:
    first, *_ = (DOCS / "parity.md").read_text("utf-8").split("\n## ")  # the table of single cells
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in first.splitlines() if line.startswith("| `")]
    found = [row for row in rows if row[0].split("`")[1] in entries]
    if found:
        yield from ["In other libraries", "------------------", ""]
        yield "Largest differences of the outputs with the same weights, from :doc:`../parity`:"
        yield from ["", ".. list-table::", "   :header-rows: 1", "", "   * - entry", "     - against"]
        yield from ["     - float64", "     - float32", "     - remark"]
        for row in found:
            cell, against, exact, _, single, _, remark = row
            cell = re.sub(r"`(\w+)`", r"``\1``", cell)
            yield from [f"   * - {cell}", f"     - {escape(against)}", f"     - {exact}", f"     - {single}"]
            yield f"     - {escape(remark)}"
        yield ""


def _gates(kind: type) -> Iterator[str]:
    """The order of gates in each library, from the table of the guide."""
    column = {rnnjax.LSTM: 1, rnnjax.GRU: 2}.get(kind)
    if column is None:
        return
    text = (DOCS / "guides" / "coming_from.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    yield from ["Gates, as each library stacks them (:doc:`../guides/coming_from`):", "", ".. list-table::", ""]
    for row in rows[1:]:
        if len(row) > column and not row[0].startswith("-"):
            yield from [f"   * - {escape(row[0])}", f"     - {escape(row[column])}"]
    yield ""
