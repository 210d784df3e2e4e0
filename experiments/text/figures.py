"""Bits per character by model, and the larger network's learning curve."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import harness
from experiments.harness import style
from experiments.learning.options import CELL_NAMES


def models(
    run: harness.Run[Any],
    ngrams: Sequence[Mapping[str, Any]],
    lines: Sequence[Mapping[str, Any]],
    large: Mapping[str, Any],
) -> harness.Figure:
    """n-grams against their order on the left, the networks beside them on the same scale."""
    fig, axes = style.figures(1, 2, 8.4, 4.2, sharey=True, width_ratios=(1, 1))
    left, right = axes[0]
    bits = np.array([row["test_bits_per_character"] for row in ngrams])
    left.plot([row["order"] for row in ngrams], bits, **style.line(3)._asdict())
    left.set_title("n-grams, Kneser-Ney")
    left.set_xlabel("order n")
    left.set_ylabel("held-out play [bits per character]")
    for place, line in enumerate(lines):
        look = style.line(CELL_NAMES.index(line["cell"]))
        low, middle, high = (line[f"test_bits_per_character_{what}"] for what in ("lowest", "median", "highest"))
        right.errorbar(
            [place],
            [middle],
            [[middle - low], [high - middle]],
            fmt=look.marker,
            color=look.color,
            markerfacecolor="white" if line["clipped_at_norm"] is None else look.color,
            capsize=4,
        )
    best, chosen = large["test_bits_per_character"], bits[run.options.order - 1]
    right.plot([len(lines)], [best], "*", color=style.VERMILLION, markersize=13)
    names = [f"{line['cell']}{'' if line['clipped_at_norm'] is None else ', clipped'}" for line in lines]
    right.set_xticks(range(len(lines) + 1), [*names, "lstm, larger"], rotation=35, ha="right", rotation_mode="anchor")
    right.set_xlim(-0.6, len(lines) + 0.6)
    right.set_title("networks")
    for ax in (left, right):
        ax.axhline(chosen, color="0.3", linewidth=1.0, linestyle=":")
        ax.axhline(best, color=style.VERMILLION, linewidth=1.0, linestyle="--")
    at = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right", "fontsize": 9}
    above, below = (0, 4), (0, -11)  # the lower of the two stands under its line
    places = (above, below) if chosen > best else (below, above)
    left.set_ylim(bottom=min(chosen, best) - 0.25)  # room for that line's name
    left.annotate(f"{run.options.order}-gram: {chosen:.2f}", (0.99, chosen), places[0], color="0.2", **at)
    left.annotate(f"larger LSTM: {best:.2f}", (0.99, best), places[1], color=style.VERMILLION, **at)
    return run.figure(
        "models",
        fig,
        alt=f"Bits per character fall to {bits.min():.2f} with the order of the n-gram; the larger LSTM: {best:.2f}.",
        caption="What a character of the held-out play costs. Networks of the grid: median over seeds, bar from the "
        "lowest to the highest, filled where the gradient is clipped.",
    )


def training(run: harness.Run[Any], large: harness.Row, chosen: Mapping[str, Any]) -> harness.Figure:
    """Training and validation bits of the larger network against updates."""
    fig, ax = style.figure(6.4, 4.0)
    at = large.arrays["updates"]
    every = max(1, len(at) // 8)
    curves = {
        "training text, as it is read": large.arrays["loss"] / np.log(2),
        "validation play": large.arrays["held_out_bits_per_character"],
    }
    for i, (name, values) in enumerate(curves.items()):
        ax.plot(at, values, label=name, markevery=every, **style.line(i)._asdict())
    gram = chosen["held_out_bits_per_character"]
    ax.axhline(gram, color="0.3", linewidth=1.2, linestyle=":", label=f"{run.options.order}-gram, validation play")
    ax.set_xlabel("updates")
    ax.set_ylabel("bits per character")
    ax.legend()
    return run.figure(
        "training",
        fig,
        alt=f"Bits per character of the larger LSTM against updates, beside the {run.options.order}-gram's.",
        caption=f"The larger LSTM (H = {large.options['hidden_size']}), on the text that it trains on and on the "
        "beginning of the validation play.",
    )
