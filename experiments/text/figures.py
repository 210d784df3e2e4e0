"""Bits per character by model, and the larger network's learning curve."""

import math
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
    """n-grams against their order; each network a level line's mark at the right."""
    fig, ax = style.figure(7.2, 4.4)
    orders = [row["order"] for row in ngrams]
    bits = [row["test_bits_per_character"] for row in ngrams]
    ax.plot(orders, bits, label="n-gram, Kneser-Ney", **style.line(2)._asdict())
    place = len(orders) + 1.0
    ticks, names = list(orders), [str(order) for order in orders]
    for line in lines:
        look = style.line(CELL_NAMES.index(line["cell"]))
        low, middle, high = (line[f"test_bits_per_character_{what}"] for what in ("lowest", "median", "highest"))
        clipped = line["clipped_at_norm"] is not None
        ax.errorbar(
            [place],
            [middle],
            [[middle - low], [high - middle]],
            fmt=look.marker,
            color=look.color,
            markerfacecolor=look.color if clipped else "white",
            capsize=3,
        )
        ticks.append(place)
        names.append(f"{line['cell']}{', clipped' if clipped else ''}")
        place += 1
    best = large["test_bits_per_character"]
    ax.plot([place], [best], "*", color=style.VERMILLION, markersize=13)
    ticks.append(place)
    names.append("lstm, larger")
    ax.axhline(best, color=style.VERMILLION, linewidth=0.9, linestyle="--")
    chosen = bits[run.options.order - 1]
    ax.axhline(chosen, color="0.35", linewidth=0.9, linestyle=":")
    ax.annotate(f"{run.options.order}-gram {chosen:.2f}", (1, chosen), (0, 3), textcoords="offset points", fontsize=8.5)
    ax.annotate(
        f"larger LSTM {best:.2f}", (1, best), (0, -11), textcoords="offset points", fontsize=8.5, color=style.VERMILLION
    )
    ax.set_xticks(ticks, names)
    for label in ax.get_xticklabels()[len(orders) :]:
        label.set(rotation=35, ha="right", rotation_mode="anchor")
    ax.set_xlabel("order n of the n-gram;  networks", loc="left")
    ax.set_ylabel("held-out play [bits per character]")
    uniform = math.log2(large["alphabet_size"]) if "alphabet_size" in large else None
    if uniform is not None:
        ax.axhline(uniform, color="0.6", linewidth=0.8)
    ax.legend(loc="upper right")
    return run.figure(
        "models",
        fig,
        alt=f"Bits per character fall with the order of the n-gram to {min(bits):.2f}; the larger LSTM has {best:.2f}.",
        caption="What a character of the held-out play costs. Networks of the grid: median over seeds, bar from the "
        "lowest to the highest; filled: gradient clipped.",
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
    ax.axhline(gram, color="0.35", linewidth=1.2, linestyle=":", label=f"{run.options.order}-gram, validation play")
    ax.set_xlabel("updates")
    ax.set_ylabel("bits per character")
    ax.set_ylim(top=min(ax.get_ylim()[1], 3.6))
    ax.legend()
    return run.figure(
        "training",
        fig,
        alt=f"The larger LSTM's validation curve crosses the {run.options.order}-gram's line and levels off below it.",
        caption=f"The larger LSTM (H = {large.options['hidden_size']}), on the text it trains on and on the beginning "
        "of the validation play.",
    )
