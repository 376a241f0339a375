"""The metrics as a table in the terminal.
"""
from evaluation.metrics import METRICS
from evaluation.scores import entry_text


def print_table(tasks, result):
    """The metrics of every task beside those of the constant predictor; then a line a subgroup and a line a label."""
    print(f"{result['split']}: {result['patients']} patients, {result['images']} images; 95 % intervals, patients resampled")

    def line(*cells):
        print(("  " + "".join(f"{cell:29} " for cell in cells)).rstrip())

    for task in tasks:
        scores, names = result[task.name], list(METRICS[task.kind])
        constant, n = scores.get("constant"), len(task.classes)
        line(f"{task.name}, {scores['units']} {result['unit']}s", "", "constant" if constant else "")
        for name in names:
            defined = next((f", {scores[name][what]} of {n} {what}" for what in ("classes", "labels") if scores[name].get(what, n) < n), "")
            line(f"  {name}{defined}", entry_text(scores[name]), entry_text(constant[name]) if constant else "")
        if points := {name: point for name, point in scores.get("operating_point", {}).items() if point["threshold"] is not None}:
            line("", "sensitivity", "specificity", "at or above, chosen on val")
        for name, point in points.items():
            line(f"  {name}", entry_text(point["sensitivity"]), entry_text(point["specificity"]), f"{point['threshold']:.3g}")
        for what, groups in (("patients", scores.get("subgroups")), ("positives", scores.get("per_label"))):
            if groups:
                line("", *names[:2], what)
            for group, entries in (groups or {}).items():
                line(f"  {group}", *(entry_text(entries[name]) for name in names[:2]), f"{entries[what]}{', small' * entries.get('small', False)}")
    if "localization" in result:
        print_localization(result["localization"])


def print_localization(result):
    """Pointing game and mass in the box of every map, over all labels and label by label."""
    def line(*cells):
        print(("  " + f"{cells[0]:38} " + "".join(f"{cell:27} " for cell in cells[1:])).rstrip())

    some = next(iter(result.values()))
    line(f"boxes of {some['findings']} findings", "pointing game", "mass in the box")
    for name, entry in result.items():
        line(f"  {name}", entry_text(entry["pointing"]), entry_text(entry["mass"]))
    line("  pointing game, " + " | ".join(result), "findings")
    for label, entry in some["per_label"].items():
        line(f"  {label}", " | ".join(f"{other['per_label'][label]['pointing']['value']:.2f}" for other in result.values()), entry["findings"])
