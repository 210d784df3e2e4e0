"""Writes text with the model that `experiments.text` left in a folder, as it is drawn.

python -m experiments.text.sample                                  # of results/text
python -m experiments.text.sample --folder results/text --length 1000 --temperature 0.7 --prompt "ROMEO:"
"""

import dataclasses
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import IO

from experiments import harness
from experiments.harness import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """A sample of the trained language model."""

    folder: Path = Path("results/text")
    """Results of `python -m experiments.text`."""
    length: int = 400
    """How many characters."""
    prompt: str = "\n"
    """What the model reads first."""
    temperature: float = 0.8
    """Below 1 likelier, above 1 wilder."""
    seed: int = 0
    """The same seed, the same text."""


def stream(folder: Path, options: Options, out: IO[str]) -> str:
    """Writes the prompt and then each character as it is drawn; gives the text back.

    Raises:
      UsageError: no model there, or a prompt that it cannot read.
    """
    import jax

    from experiments.data.shakespeare import Alphabet
    from experiments.text.sampling import characters
    from rnnjax.training import CheckpointError, load_model

    harness.positive("--length", options.length)
    try:
        saved = load_model(folder / "model")
    except CheckpointError as error:
        raise UsageError(f"{error} `python -m experiments.text` trains one (--folder names its results).") from error
    drawn = characters(
        saved.model,
        saved.params,
        Alphabet(saved.info["alphabet"]),
        jax.random.key(options.seed),
        prompt=options.prompt,
        temperature=options.temperature,
    )
    text = options.prompt
    out.write(text.lstrip("\n"))
    for character in islice(drawn, options.length):
        text += character
        out.write(character)
        out.flush()
    out.write("\n")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2 for what the user can fix."""
    import tyro

    options = tyro.cli(Options, args=argv, prog="python -m experiments.text.sample", description=__doc__)
    try:
        stream(options.folder, options, sys.stdout)
    except UsageError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, BrokenPipeError):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
