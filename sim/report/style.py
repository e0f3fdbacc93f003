"""Style of all figures, so that a policy has the same colour everywhere."""

import zlib
from typing import Any, NamedTuple

COLUMN, PAGE = 3.33, 7.0  # inches: one column and the text width of two-column conference styles

# Okabe and Ito's palette: distinguishable by colour-blind readers and in print.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"

DASHES = ("-", "--", ":", "-.")

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


LOOKS = {
    "fcfs": Look(BLACK, "o", "-"),
    "mlfq": Look(ORANGE, "s", "-"),
    "sj-mlfq": Look(BLUE, "^", "-"),
    "srpt": Look(GREEN, "D", "-"),
    "sjf": Look(SKY, "v", "-"),
    "las": Look(PURPLE, "P", "-"),
    "fixed-priority": Look(VERMILION, "X", "-."),
    "working-set": Look(VERMILION, "o", "-"),
    "thunder": Look(GREEN, "s", "--"),
    "lpm": Look(SKY, "v", "--"),
    "continuum": Look(PURPLE, "D", "--"),
    "concur": Look(ORANGE, "P", "--"),
    "program-fcfs": Look(BLACK, "s", ":"),
    "plas": Look(BLUE, "X", ":"),
    "atlas": Look(BLUE, "P", "-."),
    "deepest-first": Look(GREEN, "<", ":"),
    "cachewise": Look(YELLOW, ">", "-."),
}

# For policies that are not in the table. The colours of fcfs, mlfq and sj-mlfq, which are in most figures, stay theirs.
SPARE = [
    Look(colour, marker, dash)
    for dash in ("--", "-.")
    for marker in ("<", ">", "p", "h", "*")
    for colour in (VERMILION, PURPLE, SKY, GREEN, YELLOW)
]


def look(policy: str, nth: int = 0) -> Look:
    """The style of a policy, the same in every figure; `nth` distinguishes labels of one policy by dashes."""
    base = LOOKS.get(policy) or SPARE[zlib.crc32(policy.encode()) % len(SPARE)]
    return base._replace(dash=DASHES[(DASHES.index(base.dash) + nth) % len(DASHES)])
