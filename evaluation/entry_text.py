"""Numbers as a reader sees them: an entry of metrics.json, {value, low, high}, as text.
"""


def number(x):
    """Three decimals, or three digits where that would show too little or too much."""
    if x == 0 or 0.01 <= abs(x) < 1000:
        return f"{x:.3f}"
    return f"{x:.3g}"


def interval(entry):
    """-> "(2.910 to 4.760)", "" where an entry has no interval."""
    if entry["low"] is None:
        return ""
    return f"({number(entry['low'])} to {number(entry['high'])})"


def entry_text(entry):
    """-> "3.880 (2.910 to 4.760)", or why the value is undefined."""
    if entry["value"] is None:
        return f"undefined: {entry['reason']}"
    return f"{number(entry['value'])} {interval(entry)}".strip()
