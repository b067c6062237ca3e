"""Prompts of a wanted length that no engine has seen before, made at the cost of a copy."""

import random
from typing import Final

_WORDS: Final = (
    "time year work life hand part week case fact home side head hour game line city team word "
    "idea body back door face room girl name road land list plan page tree bank fire rain snow "
    "ship boat corn milk rice salt iron gold wood sand lake hill moon star bird fish bear wolf "
    "lion farm park shop post call note song book film play test"
)
"""Each is one token of the tokenizers in use, with the space before it."""
_WIDTH: Final = 5
_COUNT: Final = 1 << 15


class Prompts:
    """Texts of a number of words, each from another place of one long random text.

    A chat template adds a few tokens of its own; what the server counted stands in the results.

    Args:
        seed: of the text and of the places.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - no secret
        words = self._random.choices(_WORDS.split(), k=_COUNT)
        self._text = "".join(f"{word} " for word in words).encode("ascii")

    def text(self, tokens: int) -> bytes:
        """Plain lower-case words, which need no escape in JSON."""
        text = self._text
        begin = self._random.randrange(_COUNT)
        while len(text) < _WIDTH * (begin + tokens):
            text += self._text
        return text[_WIDTH * begin : _WIDTH * (begin + tokens)]
