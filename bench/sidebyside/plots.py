"""Plots as SVG, written by hand: dots of ratios, and bars of one number. They need no script, no
font of their own, and can be read on paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from sidebyside.numbers import Spread

WIDTH, LEFT, RIGHT, ROW, TOP = 860, 250, 90, 16, 62
COLOURS = (
    "#1b6ca8",
    "#d1495b",
    "#2e933c",
    "#edae49",
    "#7b4b94",
    "#00798c",
    "#8c5e3c",
    "#595959",
)
EVENER_COLOUR = "#111111"

Point = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """A number of a peer in a row, with what its rounds span."""

    row: str
    peer: str
    spread: Spread


def colours(peers: Sequence[str]) -> dict[str, str]:
    """One for each peer; Evener is black."""
    others = [peer for peer in peers if peer != "evener"]
    found = {peer: COLOURS[index % len(COLOURS)] for index, peer in enumerate(others)}
    return {"evener": EVENER_COLOUR, **found}


def dots(title: str, marks: Sequence[Mark]) -> str:
    """Ratios on a logarithmic axis: left of the line at 1, Evener's number is the smaller one."""
    rows = list(dict.fromkeys(mark.row for mark in marks))
    peers = list(dict.fromkeys(mark.peer for mark in marks))
    low = min(0.5, *(mark.spread.median for mark in marks))
    high = max(1.6, *(mark.spread.median for mark in marks))
    span = math.log(high / low)

    def across(value: float) -> float:
        inside = min(max(value, low), high)
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(inside / low) / span

    height = TOP + len(rows) * (ROW + 4) + 34
    parts = [*_legend(title, [peer for peer in peers if peer != "evener"], colours(peers))]
    bottom = height - 28
    for tick in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10):
        if low <= tick <= high:
            x = across(tick)
            width, colour = (2, "#444") if tick == 1 else (1, "#ddd")
            parts.append(_line((x, TOP - 8), (x, bottom), colour, width))
            parts.append(_text(x, bottom + 15, f"{tick:g}×", "middle"))
    for index, row in enumerate(rows):
        y = TOP + index * (ROW + 4) + ROW / 2
        parts.append(_text(LEFT - 10, y + 4, row, "end"))
        parts.append(_line((LEFT, y), (WIDTH - RIGHT, y), "#eee", 1))
        for mark in marks:
            if mark.row == row:
                colour = colours(peers)[mark.peer]
                x = across(mark.spread.median)
                ends = across(mark.spread.low), across(mark.spread.high)
                parts.append(_line((ends[0], y), (ends[1], y), colour, 2))
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>')
    return _svg(height, parts)


def bars(title: str, marks: Sequence[Mark]) -> str:
    """A bar for every peer in every row, with its number, and a line from minimum to maximum."""
    rows = list(dict.fromkeys(mark.row for mark in marks))
    peers = list(dict.fromkeys(mark.peer for mark in marks))
    most = max(mark.spread.high for mark in marks) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / most
    parts = [*_legend(title, peers, colours(peers))]
    y = float(TOP)
    for row in rows:
        these = [mark for mark in marks if mark.row == row]
        middle = y + len(these) * ROW / 2 + 4
        parts.append(_text(LEFT - 10, middle, row, "end"))
        for mark in these:
            width = mark.spread.median * scale
            colour = colours(peers)[mark.peer]
            parts.append(
                f'<rect x="{LEFT}" y="{y + 2:.1f}" width="{max(width, 1):.1f}" '
                f'height="{ROW - 4}" fill="{colour}"/>'
            )
            ends = LEFT + mark.spread.low * scale, LEFT + mark.spread.high * scale
            parts.append(_line((ends[0], y + ROW / 2), (ends[1], y + ROW / 2), "#999", 1))
            end = max(LEFT + width, ends[1]) + 5
            parts.append(_text(end, y + ROW / 2 + 4, f"{mark.spread.median:,.3g}"))
            y += ROW
        y += 10
    return _svg(y + 8, parts)


def _legend(title: str, peers: Sequence[str], colour: dict[str, str]) -> list[str]:
    parts = [f'<text x="12" y="20" font-size="14" font-weight="bold">{escape(title)}</text>']
    x = 14.0
    for peer in peers:
        parts.append(f'<circle cx="{x:.1f}" cy="36" r="5" fill="{colour[peer]}"/>')
        parts.append(_text(x + 9, 40, peer))
        x += 30 + 6.6 * len(peer)
    return parts


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(start: Point, end: Point, colour: str, width: int) -> str:
    at = f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
    return f'<line {at} stroke="{colour}" stroke-width="{width}"/>'


def _svg(height: float, parts: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {WIDTH} {height:.0f}" font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])
