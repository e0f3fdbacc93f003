"""Style of all figures, so that a policy has the same colour everywhere, and no two policies of a figure look alike."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

COLUMN, PAGE = 3.33, 7.0  # inches: one column and the text width of two-column conference styles

# Okabe and Ito's palette: distinguishable by colour-blind readers and in print.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"

DASHES = ("-", "--", ":", "-.")
HATCHES: Final = {"-": None, "--": "////", ":": "....", "-.": "xxxx"}
"""Dash of a line -> pattern of a bar."""

# matplotlib types the keys as one literal of 300 names, hence Any.
RC: dict[Any, Any] = {
    # Type 42 embeds fonts as TrueType: publishers refuse matplotlib's default, and text stays text.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.4,
    "grid.color": "#DDDDDD",
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "savefig.dpi": 200,
}


class Look(NamedTuple):
    """The style of one policy: colour, dash and marker, never colour alone."""

    colour: str
    marker: str
    dash: str


LOOKS: Final = {
    "fcfs": Look(BLACK, "o", "-"),
    "mlfq": Look(ORANGE, "s", "-"),
    "sj-mlfq": Look(BLUE, "^", "-"),
    "srpt": Look(GREEN, "D", "-"),
    "sjf": Look(SKY, "v", "-"),
    "las": Look(PURPLE, "P", "-"),
    "fixed-priority": Look(VERMILION, "X", "-."),
    "working-set": Look(VERMILION, "*", "-"),
    "thunder": Look(GREEN, "s", "--"),
    "lpm": Look(SKY, "v", "--"),
    "continuum": Look(PURPLE, "D", "--"),
    "concur": Look(ORANGE, "P", "--"),
    "program-fcfs": Look(BLACK, "s", ":"),
    "plas": Look(BLUE, "X", ":"),
    "atlas": Look(BLUE, "P", "-."),
    "deepest-first": Look(GREEN, "<", ":"),
    "cachewise": Look(YELLOW, ">", "-."),
    "priority": Look(GREEN, "<", "-."),
    "orca": Look(SKY, "h", "-."),
    "vllm": Look(PURPLE, "p", "-."),
}
"""Of the shipped policies, and of what experiments compare them with: the same in every figure."""

MARKERS: Final = ("<", "*", ">", "p", "d")

SPARE: Final = [
    Look((VERMILION, PURPLE, SKY, GREEN)[(i + i // 4) % 4], MARKERS[i % 5], ("--", "-.", ":", "-")[i % 4])
    for i in range(20)
]
"""For policies that are not in the table: no two have the same marker and dash, so that they are told apart in grey
print. The colours of fcfs, mlfq and sj-mlfq, which are in most figures, stay theirs."""


def look(policy: str, nth: int = 0) -> Look:
    """The style of a policy by itself; `nth` distinguishes labels of one policy by dashes. Of several: looks_of()."""
    base = LOOKS.get(policy, SPARE[0])
    return base._replace(dash=DASHES[(DASHES.index(base.dash) + nth) % len(DASHES)])


def as_text(label: str) -> str:
    """A label as a figure draws it: $ and a _ at its beginning have no meaning of their own there."""
    return ("\u200b" if label.startswith("_") else "") + label.replace("$", r"\$")


def looks_of(policies: Mapping[str, str]) -> dict[str, Look]:
    """By label; policies: label -> its policy, all labels of a result, whatever a figure shows of it.

    A policy of the table has its look there; any other the next spare one, in order of appearance. Labels of one policy
    share its colour and differ by dashes, beyond four by markers. Marker and dash are those of one label alone, up to
    twenty policies of one's own, or some fifty labels.
    """
    names = dict.fromkeys(policies.values())
    bases = {name: LOOKS[name] for name in names if name in LOOKS}
    taken = {base[1:] for base in bases.values()}
    for name in names:
        if name not in bases:
            free = [spare for spare in SPARE if spare[1:] not in taken]
            bases[name] = free[0] if free else SPARE[len(bases) % len(SPARE)]
            taken.add(bases[name][1:])
    found: dict[str, Look] = {}
    begun: set[str] = set()
    for label, policy in policies.items():
        base = bases[policy]
        found[label] = next((one for one in _variants(base) if one[1:] not in taken), base) if policy in begun else base
        taken.add(found[label][1:])
        begun.add(policy)
    return found


def _variants(base: Look) -> Iterator[Look]:
    """Of its colour, the nearest first."""
    markers = dict.fromkeys([base.marker, *MARKERS, *(one.marker for one in LOOKS.values())])
    for marker in markers:
        for beyond in range(len(DASHES)):
            dash = DASHES[(DASHES.index(base.dash) + beyond) % len(DASHES)]
            yield base._replace(marker=marker, dash=dash)
