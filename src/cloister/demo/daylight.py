"""The table-heavy page: hours of daylight in twelve towns, computed here so that every cell is true."""

from __future__ import annotations

import math
from itertools import groupby

__all__ = ["hours_of_daylight", "page"]

# region, town, latitude in degrees north
TOWNS = (
    ("Far north", "Longyearbyen", 78.22),
    ("Far north", "Tromsø", 69.65),
    ("Far north", "Reykjavík", 64.15),
    ("North", "Edinburgh", 55.95),
    ("North", "Bologna", 44.49),
    ("North", "Kyoto", 35.01),
    ("Between", "Dakar", 14.69),
    ("Between", "Quito", -0.18),
    ("Between", "Darwin", -12.46),
    ("South", "Johannesburg", -26.20),
    ("South", "Hobart", -42.88),
    ("South", "Ushuaia", -54.80),
)
SEASONS = (("Winter", 2), ("Spring", 3), ("Summer", 3), ("Autumn", 3), ("", 1))
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
HORIZON = math.radians(-0.833)  # the sun's upper edge at the horizon, refraction included


def hours_of_daylight(latitude: float, day: int) -> float:
    """Hours from sunrise to sunset at ``latitude`` (degrees) on ``day`` of the year; Cooper's declination (1969)."""
    phi = math.radians(latitude)
    declination = math.radians(23.44) * math.sin(math.tau * (284 + day) / 365)
    cosine = (math.sin(HORIZON) - math.sin(phi) * math.sin(declination)) / (
        math.cos(phi) * math.cos(declination)
    )
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine)))) * 2 / 15  # the sky turns 15 degrees an hour


def _colour(hours: float) -> str:
    """From deep blue (no sun) by paper (12 hours) to amber (no night)."""
    dark, paper, bright = (86, 104, 150), (251, 248, 242), (240, 178, 84)
    start, end, part = (dark, paper, hours / 12) if hours < 12 else (paper, bright, (hours - 12) / 12)
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(start, end, strict=True))
    return f"rgb({red},{green},{blue})"


def _cell(latitude: float, month: int) -> str:
    hours = hours_of_daylight(latitude, 15 + round(month * 30.4))
    minutes = round(hours * 60)
    ink = "#fff" if hours < 4 else "#2b2622"
    return f'<td class="number" style="background:{_colour(hours)};color:{ink}">{minutes // 60}:{minutes % 60:02}</td>'


def _rows() -> str:
    rows = []
    for region, towns in groupby(TOWNS, key=lambda town: town[0]):
        group = list(towns)
        for number, (_, town, latitude) in enumerate(group):
            head = f'<th rowspan="{len(group)}">{region}</th>' if number == 0 else ""
            side = "N" if latitude >= 0 else "S"
            cells = "".join(_cell(latitude, month) for month in range(12))
            rows.append(
                f'<tr>{head}<td>{town}</td><td class="number">{abs(latitude):.1f}° {side}</td>{cells}</tr>'
            )
    return "\n".join(rows)


def page() -> str:
    """The whole document."""
    seasons = "".join(f'<th colspan="{months}">{name}</th>' for name, months in SEASONS)
    months = "".join(f'<th class="number">{month}</th>' for month in MONTHS)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>Hours of daylight</title>
  <link rel="stylesheet" href="/style.css">
  <style>
    table {{ font-size: 14px }} td, th {{ padding: 8px 6px }} tbody th {{ border-right: 1px solid #ddd3c2 }}
  </style>
</head>
<body>
  <header class="top">
    <span class="mark">Cloister</span>
    <nav><a href="/">Article</a><a class="here" href="/daylight">Tables</a><a href="/rooms">Rooms</a></nav>
  </header>
  <main>
    <p class="kicker">A page of tables</p>
    <h1>Hours of daylight</h1>
    <p class="lead">How long the sun stands over the horizon in the middle of each month, from the
      far north, where it forgets to set, to the far south.</p>
    <table>
      <caption>Hours and minutes from sunrise to sunset. Seasons are the northern ones.</caption>
      <thead>
        <tr><th rowspan="2">Region</th>
          <th rowspan="2">Town</th><th rowspan="2" class="number">Latitude</th>{seasons}</tr>
        <tr>{months}</tr>
      </thead>
      <tbody>
{_rows()}
      </tbody>
    </table>
    <h2>How it is reckoned</h2>
    <table>
      <thead><tr><th>Quantity</th><th>Formula</th><th>Note</th></tr></thead>
      <tbody>
        <tr><td>Declination of the sun</td><td><code>23.44° · sin(360° · (284 + day) / 365)</code></td><td>Cooper,
          1969; good to about half a degree</td></tr>
        <tr><td>Half the day's arc</td><td><code>acos((sin −0.833° − sin φ sin δ) / (cos φ cos δ))</code></td><td>φ is
          the latitude, δ the declination</td></tr>
        <tr><td>Daylight</td><td><code>2 · arc / 15° per hour</code></td><td>0:00 is polar night,
          24:00 midnight sun</td></tr>
      </tbody>
    </table>
  </main>
  <footer>Served from your own machine by <code>cloister demo</code>.</footer>
</body>
</html>
"""
