"""Japanese vowels: nine speakers say /ae/, and who was it? 640 utterances of 7 to 29 steps, 12 cepstrum coefficients.

    x_t = 12 coefficients of the linear prediction of 25.6 ms of sound, a step every 6.4 ms        label 0 to 8

Origin, licence and what was checked: `experiments/data/README.md`. The SHA-256 of the files is verified at every load.

Reference: Kudo, Toyama and Shimbo, Multidimensional curve classification using passing-through regions, Pattern
Recognition Letters 20 (1999), 1103-1111.
"""

import lzma
from pathlib import Path

import numpy as np

from experiments.data.labelled import Parts, padded
from experiments.data.vendored import verified

FOLDER = Path(__file__).parent
SHA256 = {
    "JapaneseVowels_TRAIN.ts.xz": "54eedcaea118cd7c5517b2937dd36dab85174ff29d967ee163694a3456575d51",
    "JapaneseVowels_TEST.ts.xz": "1b2e51722075efdf5cd0514417ee5288c3a484c749f41a070b21c8fb4d3b24bf",
}
LONGEST, SPEAKERS, OF_EACH, VALIDATION_OF_EACH = 29, 9, 30, 5


def utterances(part: str, folder: Path = FOLDER) -> tuple[list[np.ndarray], np.ndarray]:
    """`[T_n, 12]` float64 for each utterance of "TRAIN" (270) or "TEST" (370), and their speakers, 0 to 8.

    Raises:
      UsageError: the file is not there, or not the one this package came with.
    """
    name = f"JapaneseVowels_{part}.ts.xz"
    text = lzma.decompress(verified(folder / name, SHA256[name])).decode()
    rows, speakers = [], []
    for line in text.split("@data\n")[1].splitlines():
        *channels, speaker = line.split(":")
        rows.append(np.array([channel.split(",") for channel in channels], np.float64).T)
        speakers.append(int(speaker) - 1)
    return rows, np.array(speakers)


def load(folder: Path = FOLDER) -> Parts:
    """The given test part of 370; of the given 270, the last 5 of each speaker's 30 validate, and 225 train.

    Each coefficient is brought to mean 0 and variance 1 over all steps of the 225.
    """
    rows, speakers = utterances("TRAIN", folder)
    order = np.arange(len(rows)) % OF_EACH  # the file has speaker after speaker
    chosen = [
        np.flatnonzero(order < OF_EACH - VALIDATION_OF_EACH),
        np.flatnonzero(order >= OF_EACH - VALIDATION_OF_EACH),
    ]
    every_step = np.concatenate([rows[n] for n in chosen[0]])
    mean, deviation = every_step.mean(axis=0), every_step.std(axis=0)
    parts = [([rows[n] for n in which], speakers[which]) for which in chosen] + [utterances("TEST", folder)]
    return Parts(*(padded([(row - mean) / deviation for row in part], who, LONGEST) for part, who in parts))
