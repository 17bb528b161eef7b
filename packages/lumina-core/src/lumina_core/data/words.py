"""Words of training captions: notes about prompts that a model cannot know."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

WORDS_FILE = "words.txt"
"""File of a model folder: the words of the training captions, the most frequent first."""
MAX_WORDS = 50_000
MIN_LETTERS = 4
"""Shorter words are not looked up: most are articles and prepositions."""
MAX_UNKNOWN = 3
MAX_LENGTH_DIFFERENCE = 3
MAX_WORDS_WITH_EXAMPLES = 2000
"""Number of known words up to which the most frequent ones are worth naming."""
_WORD = re.compile(r"[^\W\d_]+")
_WITHOUT_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Letters of scripts that write words without spaces between them."""
_COMMON_TEXT = """
    about above after along also among around back before behind below beside between both down during each from have
    into like made many more most much near next onto other over same some such than that their them then there these
    they this those through toward towards under very what when where which while with without image photo picture
    drawing illustration sound audio music
"""
_COMMON = frozenset(_COMMON_TEXT.split())


def words_of(text: str) -> Iterator[str]:
    """Iterate over the words of a text in small letters; scripts without spaces have none."""
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        if not _WITHOUT_SPACES.search(word):
            yield word


def count_words(texts: Iterable[str]) -> list[str]:
    """Return the words of captions, the most frequent first, at most `MAX_WORDS`."""
    counts = Counter(word for text in texts for word in words_of(text))
    return [word for word, _ in counts.most_common(MAX_WORDS)]


def write_words(folder: Path, words: Collection[str]) -> None:
    """Write the words of a model's training captions to its folder."""
    (folder / WORDS_FILE).write_text("".join(f"{word}\n" for word in words), encoding="utf-8")


def read_words(folder: Path) -> list[str]:
    """Read the words of a model folder; empty if it has none."""
    try:
        return (folder / WORDS_FILE).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        return []


def unknown_words_note(text: str, known: Collection[str]) -> str:
    """Describe the words of a text that no training caption has, with the nearest known ones; empty if there are none.

    Args:
        text: a prompt.
        known: words of the training captions, the most frequent first.
    """
    words = dict.fromkeys(word for word in words_of(text) if len(word) >= MIN_LETTERS and word not in _COMMON)
    unknown = [word for word in words if not _is_known(word, known)][:MAX_UNKNOWN]
    if not unknown:
        return ""
    parts = []
    for word in unknown:
        # of tens of thousands of words, those that can be near at all
        candidates = [one for one in known if one[0] == word[0] and abs(len(one) - len(word)) <= MAX_LENGTH_DIFFERENCE]
        near = difflib.get_close_matches(word, candidates, n=1, cutoff=0.78)
        parts.append(f"'{word}'" + (f" (nearest: '{near[0]}')" if near else ""))
    note = f"in no training caption of this model: {', '.join(parts)}"
    if all("nearest" not in part for part in parts) and len(known) <= MAX_WORDS_WITH_EXAMPLES:
        examples = [word for word in known if len(word) >= MIN_LETTERS and word not in _COMMON][:6]
        note += f"; it knows words such as {', '.join(examples)}"
    return note


def _is_known(word: str, known: Collection[str]) -> bool:
    forms = {word, f"{word}s", word.removesuffix("s"), word.removesuffix("es"), f"{word}es"}
    return any(form in known for form in forms)
