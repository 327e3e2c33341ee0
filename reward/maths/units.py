"""Units after numbers, for when both sides have one.

In: an answer as text. Out: the text of the number, and the unit's dimension and size; None without a known unit
(percentages and degrees stay as they are: the grammar reads them). A unit on one side only is ignored; two known units
must agree: 5 km is 5000 m and not 5 m, 37 degrees C are not 37 degrees F, $5 are not 5 cents. Must not know: trees, how
numbers are compared.
"""

from __future__ import annotations

import re
from fractions import Fraction

Unit = tuple[tuple[tuple[str, int], ...], Fraction]  # dimension as sorted (base, power) pairs, size in base units


def _table() -> dict[str, tuple[str, Fraction]]:
    rows = {
        "length": {
            "1": "m meter meters metre metres", "1/10": "dm",
            "1/100": "cm centimeter centimeters centimetre centimetres",
            "1/1000": "mm millimeter millimeters millimetre millimetres",
            "1000": "km kilometer kilometers kilometre kilometres", "1/1000000000": "nm nanometer nanometers",
            "0.0254": "inch inches in", "0.3048": "ft foot feet", "0.9144": "yd yard yards",
            "1609.344": "mi mile miles",
        },
        "mass": {"1": "g gram grams", "1000": "kg kilogram kilograms", "1/1000": "mg milligram milligrams"},
        "time": {
            "1": "s sec secs second seconds", "60": "min mins minute minutes", "3600": "h hr hrs hour hours",
            "86400": "day days", "604800": "week weeks", "1/1000": "ms",
        },
        "years": {"1": "year years yr yrs", "1/12": "month months"},
        "volume": {"1/1000": "L l liter liters litre litres", "1/1000000": "mL ml milliliter milliliters millilitres"},
        "dollar": {"1": "dollar dollars USD usd", "1/100": "cent cents"},
        "euro": {"1": "euro euros EUR"}, "pound sterling": {"1": "GBP"}, "yen": {"1": "yen JPY"},
        "rupee": {"1": "rupees"},
        "celsius": {"1": "degC"}, "fahrenheit": {"1": "degF"}, "kelvin": {"1": "K kelvin kelvins"},
        "force": {"1": "N newton newtons"}, "energy": {"1": "J joule joules", "1000": "kJ"},
        "power": {"1": "W watt watts"},
    }  # fmt: skip
    return {
        name: (dimension, Fraction(size))
        for dimension, sizes in rows.items()
        for size, spelled in sizes.items()
        for name in spelled.split()
    }


_KNOWN = _table()
_SPEEDS = {"mph": "mile/hour", "kph": "km/hour", "kmph": "km/hour"}
_MONEY = {"$": "dollar", "€": "euro", "£": "GBP", "¥": "yen", "₹": "rupees"}
_TEXT = re.compile(r"\\(?:text(?:rm|normal|up|bf|it)?|mathrm|mbox|hbox|operatorname|rm)\s*\{([^{}]*)\}")
_DEGREES = re.compile(
    r"(?:\^\s*\{?\s*(?:\\circ|°)\s*\}?|°|º|\\degree|degrees?)\s*\{?\s*(?:(C)(?:elsius)?|(F)(?:ahrenheit)?)\b"
)
_TAIL = re.compile(r"(?<=[\d})])\s*(?P<unit>[a-zA-Z][a-zA-Z\s/^*·\-\d{}]{0,60})$")
_PART = re.compile(
    r"(/|\bper\b)?\s*(?:[*·]\s*)?(square|cubic)?\s*([a-zA-Z]+)\s*(?:\^\s*\{?\s*(-?\d)\s*\}?|(squared|cubed))?\s*"
)
_PERCENT = r"\bper\s?cents?\b|\bpercentages?(?:\s+points?)?\b|\bpct\b"
_BRACKETED = re.compile(r"(?<=[\d})])\s+\(([a-zA-Z][a-zA-Z/^\d ]{0,30})\)\s*$")
_SIGN = re.compile(
    rf"(?:%|{_PERCENT}|" r"(?:°|\\degree|\bdegrees?|\^\s*\{?\s*(?:\\circ|°)\s*\}?)|\bradians?|\brad)[\s$}]*$"
)
_POWERS = {"square": 2, "squared": 2, "cubic": 3, "cubed": 3, None: 1}


def split(text: str) -> tuple[str, Unit] | None:
    """("5", kilometre) of "5 \\text{ km}"; None without a known unit."""
    text = text.strip().rstrip(".")
    if match := _BRACKETED.search(text):  # 5 (km)
        text = f"{text[: match.start()]} {match[1]}" if parse(match[1]) else text
    if match := _SIGN.search(plain := _TEXT.sub(r" \1 ", text)):
        kind = "radian" if "rad" in match[0] else "percent" if re.match(f"%|{_PERCENT}", match[0]) else "degree"
        return plain[: match.start()] if kind == "radian" else text, (((kind, 1),), Fraction(1))
    found = _money(text)
    if found:
        return found
    text = re.sub(r"\\[,;: !]|~|\$", " ", text)
    text = _DEGREES.sub(lambda m: " degC" if m[1] else " degF", _TEXT.sub(r" \1 ", text)).strip().rstrip(".")
    text = text.replace("²", "^2").replace("³", "^3")
    match = _TAIL.search(text)
    if match is None:
        return None
    unit = parse(match["unit"])
    return None if unit is None else (text[: match.start()], unit)


def _money(text: str) -> tuple[str, Unit] | None:
    plain = text.replace("\\text{\\$}", "\\$").replace("\\$", "＄")
    if plain.count("$") % 2:
        plain = re.sub(r"^\$|\$$", "＄", plain)
    plain = plain.replace("$", " ").strip()
    for sign, name in (("＄", "dollar"), *list(_MONEY.items())[1:]):
        if plain.startswith(sign) or plain.endswith(sign):
            rest = plain.strip(sign).strip()
            if re.fullmatch(r"[\d.,{}!\\\s]+|\\[dt]?frac\s*\{\d+\}\s*\{\d+\}", rest):
                dimension, size = _KNOWN[name]
                return rest, (((dimension, 1),), size)
    return None


def parse(text: str) -> Unit | None:
    """The unit that a text names. Example: "km/h" is length 1, time -1, of size 5/18."""
    text = text.strip()
    at = 0
    powers: dict[str, int] = {}
    size = Fraction(1)
    while at < len(text):
        match = _PART.match(text, at)
        if match is None or match.end() == at:
            return None
        at = match.end()
        name = match[3]
        if name in _SPEEDS:
            text, at = _SPEEDS[name] + text[at:], 0
            continue
        if name not in _KNOWN:
            return None
        power = int(match[4]) if match[4] else _POWERS[match[5]] * _POWERS[match[2]]
        power = -power if match[1] else power
        dimension, one = _KNOWN[name]
        size *= one**power
        if dimension == "volume":
            dimension, power = "length", 3 * power
        powers[dimension] = powers.get(dimension, 0) + power
    return (tuple(sorted((name, power) for name, power in powers.items() if power)), size) if powers else None
