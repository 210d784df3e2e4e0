"""Writes text with the model that `experiments.text` left in a folder, character by character.

python -m experiments.text.sample --folder results/text --length 1000 --temperature 0.7 --prompt "ROMEO:"
"""

import functools
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import MinLen
from jax import Array
from pydantic import PositiveFloat, PositiveInt

from rnnjax import Readout
from rnnjax.training import CheckpointError, load_model

from .. import lab
from ..data.shakespeare import Alphabet


@lab.options
class Options:
    """A sample of the trained language model."""

    folder: Path = Path("results/text")
    """Results of `python -m experiments.text`."""
    length: PositiveInt = 400
    """Number of characters."""
    prompt: Annotated[str, MinLen(1)] = "\n"
    """What the model reads first."""
    temperature: PositiveFloat = 0.8
    """Below 1 likelier, above 1 wilder."""
    seed: int = 0
    """The same seed gives the same text."""

    def check(self) -> None:
        """Nothing beyond the annotations."""


def characters(
    model: Readout, params: Any, alphabet: Alphabet, key: Array, *, prompt: str = "\n", temperature: float = 1.0
) -> Iterator[str]:
    """What follows the prompt, one character at a time, without end; the same key gives the same text.

        token_{t+1} ~ softmax(logits_t / temperature)

    Raises `UsageError`, at the call, if the prompt has a character that the model does not know.
    """
    *before, last = alphabet.encode(prompt).tolist()
    scale = jnp.asarray(temperature, params.b_out.dtype)

    def drawn(key: Array) -> Iterator[str]:
        carry = model.initial_carry(params)
        for token in before:
            carry = _step(model, params, carry, jnp.int32(token), key, scale)[0]  # its character is not used
        token = jnp.int32(last)
        while True:
            carry, token, key = _step(model, params, carry, token, key, scale)
            yield alphabet.characters[int(token)]

    return drawn(key)


@functools.partial(jax.jit, static_argnums=0)
def _step(model: Readout, params: Any, carry: Any, token: Array, key: Array, temperature: Array) -> tuple[Any, ...]:
    """Reads a character and draws the next: `(carry, token, key)`."""
    carry, logits = model.step(params, carry, jax.nn.one_hot(token, model.output_size, dtype=temperature.dtype))
    key, own = jax.random.split(key)
    return carry, jax.random.categorical(own, logits / temperature).astype(jnp.int32), key


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the prompt and then each character as it is drawn. Exit status 2: something the user can fix."""
    import tyro

    try:
        asked = tyro.cli(Options, args=argv, prog="python -m experiments.text.sample", description=__doc__)
        saved = load_model(asked.folder / "model")
        given = saved.model, saved.params, Alphabet(saved.info["alphabet"]), jax.random.key(asked.seed)
        drawn = characters(*given, prompt=asked.prompt, temperature=asked.temperature)
        for text in itertools.chain([asked.prompt.lstrip("\n")], itertools.islice(drawn, asked.length), ["\n"]):
            print(text, end="", flush=True)
    except (lab.UsageError, CheckpointError) as error:
        hint = " `python -m experiments.text` trains one (--folder names its results)."
        print(f"error: {error}{hint * isinstance(error, CheckpointError)}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, BrokenPipeError):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
