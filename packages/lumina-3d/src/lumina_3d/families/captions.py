"""Captions of shapes: English phrases for attributes and colours, and class names in twelve languages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from lumina_3d.families.shapes import COLORS, FAMILIES, Shape
from lumina_core.errors import ConfigError
from lumina_core.io import read_plain_text

CLASS_NAMES: Mapping[str, tuple[str, ...]] = {
    "en": ("chair", "table", "lamp", "sofa", "shelf", "bed", "aeroplane", "car", "mug", "vase"),
    "zh": ("椅子", "桌子", "灯", "沙发", "书架", "床", "飞机", "汽车", "马克杯", "花瓶"),
    "ja": ("いす", "テーブル", "ランプ", "ソファ", "棚", "ベッド", "飛行機", "車", "マグカップ", "花びん"),
    "ko": ("의자", "탁자", "램프", "소파", "선반", "침대", "비행기", "자동차", "머그컵", "꽃병"),
    "de": ("Stuhl", "Tisch", "Lampe", "Sofa", "Regal", "Bett", "Flugzeug", "Auto", "Becher", "Vase"),
    "fr": ("chaise", "table", "lampe", "canapé", "étagère", "lit", "avion", "voiture", "tasse", "vase"),
    "es": ("silla", "mesa", "lámpara", "sofá", "estantería", "cama", "avión", "coche", "taza", "florero"),
    "pt": ("cadeira", "mesa", "luminária", "sofá", "estante", "cama", "avião", "carro", "caneca", "vaso"),
    "it": ("sedia", "tavolo", "lampada", "divano", "scaffale", "letto", "aereo", "automobile", "tazza", "vaso"),
    "ru": ("стул", "стол", "лампа", "диван", "полка", "кровать", "самолёт", "машина", "кружка", "ваза"),
    "ar": ("كرسي", "طاولة", "مصباح", "أريكة", "رف", "سرير", "طائرة", "سيارة", "كوب", "مزهرية"),
    "hi": ("कुर्सी", "मेज़", "दीपक", "सोफ़ा", "शेल्फ़", "बिस्तर", "हवाई जहाज़", "कार", "मग", "फूलदान"),
}
"""Names of the classes by language, in the order of `FAMILIES`."""
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "sofa": ("couch",),
    "shelf": ("bookcase", "bookshelf"),
    "aeroplane": ("airplane", "plane"),
    "mug": ("cup",),
}
"""Other English names of a class."""
_NOUNS: Mapping[tuple[str, str, str], tuple[str, ...]] = {
    ("chair", "legs", "wheels"): ("office chair",),
    ("car", "body", "sedan"): ("sedan", "sedan car"),
    ("car", "body", "van"): ("van", "van car"),
    ("car", "body", "pickup"): ("pickup truck", "pickup car"),
    ("lamp", "height", "tall"): ("floor lamp", "tall lamp"),
    ("lamp", "height", "short"): ("table lamp", "short lamp"),
}
_ADJECTIVES: Mapping[tuple[str, str, str], tuple[str, ...]] = {
    ("chair", "height", "tall"): ("tall", "high-backed"),
    ("chair", "height", "low"): ("low", "low-backed"),
    ("table", "height", "tall"): ("tall", "high"),
    ("table", "height", "low"): ("low",),
    ("table", "top", "round"): ("round",),
    ("table", "top", "square"): ("square", "rectangular"),
    ("sofa", "width", "narrow"): ("narrow",),
    ("sofa", "width", "wide"): ("wide", "long"),
    ("shelf", "height", "tall"): ("tall", "high"),
    ("shelf", "height", "wide"): ("wide", "low"),
    ("bed", "width", "single"): ("single", "narrow"),
    ("bed", "width", "double"): ("double", "wide"),
    ("aeroplane", "length", "long"): ("long",),
    ("aeroplane", "length", "short"): ("short",),
    ("mug", "height", "tall"): ("tall",),
    ("mug", "height", "wide"): ("wide", "low"),
    ("vase", "height", "tall"): ("tall",),
    ("vase", "height", "short"): ("short", "low"),
}
_PHRASES: Mapping[tuple[str, str, str], tuple[str, ...]] = {
    ("chair", "arms", "yes"): ("with arms", "with armrests"),
    ("chair", "arms", "no"): ("without arms", "without armrests"),
    ("chair", "legs", "four"): ("with four legs",),
    ("chair", "legs", "pedestal"): ("on a pedestal", "with one leg"),
    ("chair", "legs", "wheels"): ("on wheels", "with wheels"),
    ("table", "legs", "four"): ("with four legs",),
    ("table", "legs", "pedestal"): ("on a pedestal", "with one leg"),
    ("lamp", "shade", "cone"): ("with a cone shade", "with a conical shade"),
    ("lamp", "shade", "ball"): ("with a round shade", "with a ball shade"),
    ("sofa", "arms", "yes"): ("with arms", "with armrests"),
    ("sofa", "arms", "no"): ("without arms", "without armrests"),
    ("shelf", "back", "open"): ("without a back", "with an open back"),
    ("shelf", "back", "closed"): ("with a back", "with a closed back"),
    ("bed", "headboard", "yes"): ("with a headboard",),
    ("bed", "headboard", "no"): ("without a headboard",),
    ("aeroplane", "wings", "straight"): ("with straight wings",),
    ("aeroplane", "wings", "swept"): ("with swept wings",),
    ("car", "wheels", "four"): ("with four wheels", "on four wheels"),
    ("car", "wheels", "six"): ("with six wheels", "on six wheels"),
    ("mug", "handle", "yes"): ("with a handle",),
    ("mug", "handle", "no"): ("without a handle",),
    ("vase", "neck", "narrow"): ("with a narrow neck",),
    ("vase", "neck", "wide"): ("with a wide opening", "with a wide neck"),
}
PLAIN_PROB = 0.2
"""Share of captions that are the class alone, in any language."""
ATTRIBUTE_PROB = 0.75
"""Probability with which a caption names each attribute."""
COLOR_PROB = 0.85
"""Probability with which a caption names the colour of the main part."""


def full_caption(shape: Shape, with_color: bool = True) -> str:
    """Return the English caption that names every attribute with its first phrase: "a tall red chair with arms"."""
    return _compose(shape, set(shape.attributes), with_color, None)


def random_caption(shape: Shape, rng: np.random.Generator) -> str:
    """Draw a caption: the class name in one of the languages, or English words for some of the attributes."""
    if rng.random() < PLAIN_PROB:
        language = tuple(CLASS_NAMES)[int(rng.integers(len(CLASS_NAMES)))]
        return CLASS_NAMES[language][shape.label]
    named = {name for name in shape.attributes if rng.random() < ATTRIBUTE_PROB}
    return _compose(shape, named, bool(rng.random() < COLOR_PROB), rng)


def vocabulary_text(shapes: Iterable[Shape]) -> list[str]:
    """Return the lines from which a text encoder learns its vocabulary: all words of captions, and captions of shapes.

    Each word stands behind each colour, so that both become one piece. In pieces such as "re" and "d", which other
    words share, no text encoder of views learnt that a sofa is red.
    """
    coloured = (f"{color} {word}" for word in all_words() for color in COLORS)
    return list(dict.fromkeys([*coloured, *map(full_caption, shapes)]))


def all_words() -> list[str]:
    """Return every class name, synonym, noun, adjective, phrase and colour, each once: the vocabulary of captions."""
    tables = (_NOUNS, _ADJECTIVES, _PHRASES)
    words = [name for names in CLASS_NAMES.values() for name in names]
    words += [name for names in SYNONYMS.values() for name in names]
    words += [phrase for table in tables for phrases in table.values() for phrase in phrases]
    return list(dict.fromkeys([*words, *COLORS]))


def _compose(shape: Shape, named: set[str], with_color: bool, rng: np.random.Generator | None) -> str:
    """Join article, adjectives, noun and phrases; `rng` None takes the first of several words."""

    def one(words: tuple[str, ...]) -> str:
        return words[0] if rng is None else words[int(rng.integers(len(words)))]

    noun = one((shape.family, *SYNONYMS.get(shape.family, ()))) if rng is not None else shape.family
    adjectives: list[str] = []
    phrases: list[str] = []
    for name, value in shape.attributes.items():
        key = (shape.family, name, value)
        if name not in named:
            continue
        if key in _NOUNS and (key not in _PHRASES or (rng is not None and rng.random() < 0.4)):
            noun = one(_NOUNS[key])
        elif key in _ADJECTIVES:
            adjectives.append(one(_ADJECTIVES[key]))
        else:
            phrases.append(one(_PHRASES[key]))
    if with_color:
        adjectives.append(shape.colors[0])
    if rng is not None and len(phrases) > 1 and rng.random() < 0.5:
        phrases.reverse()
    words = " ".join([*adjectives, noun])
    article = "an" if words[0] in "aeiou" else "a"
    return " ".join([article, words, " and ".join(phrases)]).strip()


def read_caption(path: Path, default: str) -> str:
    """Return the caption of a file: the text beside it, `chair.txt` for `chair.obj`, or `default` without one.

    Raises:
        ConfigError: the text cannot be read, or is not UTF-8.
    """
    text = path.with_suffix(".txt")
    if not text.is_file():
        return default
    try:
        return read_plain_text(text).strip() or default
    except (OSError, ValueError) as error:
        raise ConfigError(f"{text.name}: got a file that is no UTF-8 text ({error}), expected a caption.") from error


assert all(len(names) == len(FAMILIES) for names in CLASS_NAMES.values())
