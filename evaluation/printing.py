"""The metrics, and the comparison of two runs, as tables in the terminal.
"""
from evaluation.entry_text import entry_text
from evaluation.metrics import METRICS


def print_row(title, cells=(), width=29):
    """Print a line of a table: its title, `width` characters wide, and cells of 29 characters."""
    row = f"  {title:{width}}"
    for cell in cells:
        row += f" {cell:29}"
    print(row.rstrip())


def print_table(tasks, result):
    """Print what `evaluate` returns: the metrics of every task beside those of the constant predictor, the
    operating points, then one line per subgroup and one per label."""
    print(f"{result['split']}: {result['patients']} patients, {result['images']} images; "
          "95 % intervals, patients resampled")
    for task in tasks:
        scores = result[task.name]
        print_metrics(task, scores, result["unit"])
        print_operating_points(scores.get("operating_point", {}))
        names = list(METRICS[task.kind])[:2]
        print_groups(scores.get("subgroups"), names, "patients")
        print_groups(scores.get("per_label"), names, "positives")
    if "localization" in result:
        print_localization(result["localization"])


def print_metrics(task, scores, unit):
    """One line per metric, beside that of the constant predictor where there is one."""
    constant = scores.get("constant")
    head = ["", "constant"] if constant else []
    print_row(f"{task.name}, {scores['units']} {unit}s", head)
    for name in METRICS[task.kind]:
        title = f"  {name}"
        total = len(task.classes)
        defined = scores[name].get(task.kind, total)               # for how many of the classes or labels
        if defined < total:
            title += f", {defined} of {total} {task.kind}"
        cells = [entry_text(scores[name])]
        if constant:
            cells.append(entry_text(constant[name]))
        print_row(title, cells)


def print_operating_points(points):
    """One line per class or label that has a threshold."""
    points = {name: point for name, point in points.items() if point["threshold"] is not None}
    if points:
        print_row("", ["sensitivity", "specificity", "at or above, chosen on val"])
    for name, point in points.items():
        rates = [entry_text(point[rate]) for rate in ("sensitivity", "specificity")]
        print_row(f"  {name}", rates + [f"{point['threshold']:.3g}"])


def print_groups(groups, names, counted):
    """One line per subgroup or label: its metrics of these names, and its number of patients or positives."""
    if not groups:
        return
    print_row("", names + [counted])
    for group, scores in groups.items():
        count = str(scores[counted])
        if scores.get("small"):
            count += ", small"
        cells = [entry_text(scores[name]) for name in names]
        print_row(f"  {group}", cells + [count])


def print_localization(result):
    """Pointing game and mass in the box of every map, over all labels and label by label."""
    chance = result["chance"]
    print_row(f"boxes of {chance['findings']} findings", ["pointing game", "mass in the box"], width=38)
    for name, scores in result.items():
        cells = [entry_text(scores[metric]) for metric in ("pointing", "mass")]
        print_row(f"  {name}", cells, width=38)
    print_row("  pointing game, " + " | ".join(result), ["findings"], width=38)
    for label, scores in chance["per_label"].items():
        values = []
        for other in result.values():
            pointing = other["per_label"][label]["pointing"]
            values.append(f"{pointing['value']:.2f}")
        print_row(f"  {label}", [" | ".join(values), scores["findings"]], width=38)


def print_comparison(result):
    """Print what `compare` returns, per metric the first run, the second, and the first minus the second."""
    print(f"a {result['a']}, b {result['b']}: {result['patients']} test patients in common; "
          "95 % intervals, the same resamples for both")
    for task, scores in result.items():
        if not isinstance(scores, dict):
            continue
        print_row(f"{task}, {scores['units']} units", ["a", "b", "a - b"])
        print_differences("  ", scores)
        for label, label_scores in scores.get("per_label", {}).items():
            print_differences(f"  {label} ", label_scores)


def print_differences(indent, scores):
    for name, entry in scores.items():
        if name not in ("units", "per_label"):
            print_row(indent + name, [entry_text(entry[key]) for key in ("a", "b", "difference")])
