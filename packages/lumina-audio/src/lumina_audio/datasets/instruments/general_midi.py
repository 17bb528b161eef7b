"""The 128 programs of General MIDI as one says them: names, other names, families, registers, articles."""

from __future__ import annotations

import functools
from dataclasses import dataclass

FAMILIES = (
    "piano", "chromatic percussion", "organ", "guitar", "bass", "strings", "ensemble", "brass",
    "reed", "pipe", "synth lead", "synth pad", "synth effects", "ethnic", "percussive", "sound effects",
)  # fmt: skip
"""Eight programs each, in order."""

# number|name|other names|lowest-highest MIDI note heard, none: no pitch is heard.
# Before a name: * several of them, ~ no article, ^ the
PROGRAM_TABLE = """
0|acoustic grand piano|piano, grand piano|36-96
1|bright acoustic piano|bright piano|36-96
2|electric grand piano||36-96
3|honky-tonk piano|honky tonk piano|36-96
4|electric piano|rhodes piano|36-90
5|FM electric piano|FM piano|36-90
6|harpsichord||36-88
7|clavinet|clavi|36-90
8|celesta||60-104
9|glockenspiel||79-108
10|music box||60-100
11|vibraphone||53-89
12|marimba||45-91
13|xylophone||65-101
14|*tubular bells|*orchestral chimes|60-84
15|dulcimer|hammered dulcimer|48-84
16|drawbar organ|hammond organ|36-92
17|percussive organ||36-84
18|rock organ||36-84
19|church organ|pipe organ|36-92
20|reed organ|harmonium|36-90
21|accordion||53-89
22|harmonica||60-89
23|tango accordion|bandoneon|53-89
24|nylon string guitar|classical guitar, nylon guitar|40-83
25|steel string guitar|steel string acoustic guitar|40-83
26|jazz guitar|jazz electric guitar|40-86
27|clean electric guitar|clean guitar|40-86
28|muted electric guitar|muted guitar|40-86
29|overdriven guitar||40-86
30|distortion guitar|distorted guitar|40-86
31|*guitar harmonics||64-100
32|acoustic bass|upright bass|28-60
33|fingered electric bass|finger bass|28-60
34|picked electric bass|pick bass|28-60
35|fretless bass||28-60
36|slap bass|first slap bass|28-60
37|second slap bass||28-60
38|synth bass|first synth bass|28-60
39|second synth bass||28-60
40|violin||55-91
41|viola||48-84
42|cello||36-72
43|contrabass|double bass|28-55
44|*tremolo strings||36-88
45|*pizzicato strings|*plucked strings|40-88
46|orchestral harp|harp|36-84
47|*timpani|*kettledrums|36-57
48|string ensemble|string section|36-88
49|slow string ensemble|*slow strings|36-88
50|*synth strings|*first synth strings|36-88
51|*second synth strings||36-88
52|*choir aahs|choir|48-79
53|*voice oohs||48-79
54|synth voice|synth vox|48-84
55|orchestra hit|orchestral hit|36-84
56|trumpet||54-86
57|trombone||40-72
58|tuba||29-58
59|muted trumpet||54-82
60|french horn||41-77
61|brass section|brass ensemble|36-84
62|synth brass|first synth brass|36-84
63|second synth brass||36-84
64|soprano saxophone|soprano sax|56-88
65|alto saxophone|alto sax|49-81
66|tenor saxophone|tenor sax|44-76
67|baritone saxophone|baritone sax|37-69
68|oboe||58-91
69|english horn|cor anglais|52-81
70|bassoon||34-72
71|clarinet||50-91
72|piccolo||74-108
73|flute||60-96
74|recorder||60-96
75|pan flute||60-96
76|blown bottle||60-96
77|shakuhachi||55-84
78|whistle||60-96
79|ocarina||60-84
80|square wave lead|square lead|36-96
81|sawtooth lead|saw lead|36-96
82|calliope lead||36-96
83|chiff lead||36-96
84|charang lead||36-96
85|voice lead||36-96
86|fifths lead||36-90
87|bass and lead|bass lead|28-84
88|new age pad|fantasia pad|36-84
89|warm pad||36-84
90|polysynth pad|polysynth|36-84
91|choir pad||36-84
92|bowed glass pad|bowed pad|36-84
93|metallic pad|metal pad|36-84
94|halo pad||36-84
95|sweep pad||36-84
96|rain synth|ice rain synth|36-84
97|soundtrack synth||36-84
98|crystal synth||36-84
99|atmosphere synth||36-84
100|brightness synth|bright synth|36-84
101|goblin synth||36-84
102|echo synth|echo drops synth|36-84
103|sci-fi synth|star theme synth|36-84
104|sitar||48-77
105|banjo||48-84
106|shamisen||50-79
107|koto||55-84
108|kalimba|thumb piano|48-84
109|bagpipe||48-77
110|fiddle||55-91
111|shanai|shehnai|60-84
112|tinkle bell||72-96
113|agogo|agogo bell|
114|*steel drums|steel drum|52-81
115|woodblock|wood block|
116|taiko drum|taiko|
117|melodic tom|tom-tom|
118|synth drum||
119|reverse cymbal|reversed cymbal|
120|guitar fret noise|fret noise|
121|breath noise||
122|^seashore|*ocean waves|
123|bird tweet|~birdsong|
124|telephone ring|ringing telephone|
125|helicopter||
126|~applause|~clapping|
127|gunshot|gun shot|
"""


@dataclass(frozen=True)
class InstrumentName:
    """A name as it stands in a sentence.

    Attributes:
        text: without an article.
        article: `a `, `an ` or `the `; empty where none belongs there.
        several: `the tubular bells play`, not `plays`.
    """

    text: str
    article: str
    plural: bool

    @property
    def with_article(self) -> str:
        """With its article: `an oboe`, `tubular bells`."""
        return self.article + self.text


@dataclass(frozen=True)
class Instrument:
    """One program.

    Attributes:
        program: 0..127.
        names: the usual one first.
        family: one of `FAMILIES`.
        register: lowest and highest MIDI note that suits it; None: no pitch is heard.
    """

    program: int
    names: tuple[InstrumentName, ...]
    family: str
    register: tuple[int, int] | None

    @property
    def name(self) -> str:
        """The usual one, without an article."""
        return self.names[0].text


@functools.lru_cache(maxsize=1)
def instruments() -> tuple[Instrument, ...]:
    """All 128, by their number."""
    return tuple(_parse_line(line) for line in PROGRAM_TABLE.split("\n") if line)


def indefinite_article(word: str) -> str:
    """`an ` before a vowel that is spoken, `a ` otherwise; FM is spelled out, and so begins with one."""
    return "an " if word[0].lower() in "aeio" or word.startswith(("FM", "up")) else "a "


def _parse_line(line: str) -> Instrument:
    number, name, others, register = line.split("|")
    names = [name, *(other.strip() for other in others.split(",") if other)]
    low, _, high = register.partition("-")
    program = int(number)
    return Instrument(
        program, tuple(map(_parse_name, names)), FAMILIES[program // 8], (int(low), int(high)) if register else None
    )


def _parse_name(text: str) -> InstrumentName:
    text_only = text.lstrip("*~^")
    articles = {"*": "", "~": "", "^": "the "}
    return InstrumentName(text_only, articles.get(text[0], indefinite_article(text_only)), text.startswith("*"))
