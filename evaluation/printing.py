"""The metrics, and the comparison of two runs, as tables in the terminal.
"""
import textwrap

from evaluation.metrics import LOWER_IS_BETTER, NAMES
from evaluation.result_tables import cell_text, counts, legend, map_tables, number, people, tables
from evaluation.verdict import verdicts


WIDTH = 80           # letters of a line
NAME = 34            # letters of a row's name, at most


def print_columns(head, rows):
    """Print a table in columns as wide as what they hold, the names of its rows indented.

    Columns that do not fit into a line of WIDTH follow below, beside the same names."""
    lines = []
    for name, *cells in [head] + rows:
        if len(name) > NAME:                                       # what tells it from others may be its end
            name = name[:NAME // 2 - 3] + "..." + name[-NAME // 2:]
        if lines:
            name = "  " + name
        lines.append([name, *map(cell_text, cells)])
    widths = [max(map(len, column)) + 2 for column in zip(*lines)]
    parts = []                                       # columns that stand side by side
    for column in range(1, len(widths)):
        if not parts or sum(widths[i] for i in parts[-1] + [column]) > WIDTH:
            parts.append([0])
        parts[-1].append(column)
    for part in parts:
        for line in lines:
            cells = "".join(line[i].ljust(widths[i]) for i in part)
            print(f"  {cells}".rstrip())


def print_table(tasks, result):
    """Print what `evaluate` returns: the verdicts, then the metrics of every task beside those of the
    constant predictor, one line per label, per subgroup and per operating point, and where the maps point."""
    print(f"{result['split']}: {counts(result)}; 95 % intervals, {people(result)} resampled")
    for sentence, warnings in verdicts(tasks, result):
        print(textwrap.fill(sentence, WIDTH))
        print_warnings(warnings)
    shown = sum([tables(task, result) for task in tasks], [])
    if "localization" in result:
        shown += map_tables(result["localization"])
    for _, head, rows in shown:
        print_columns(head, rows)
    for text in legend(shown):
        print(textwrap.fill(text, WIDTH))


def print_warnings(texts):
    for text in texts:
        print(textwrap.fill(text, WIDTH, initial_indent="  ! ", subsequent_indent="    "))


def print_comparison(result):
    """Print what `compare` returns, per metric the first run, the second, and the first minus the second."""
    print(f"a {result['a']}, b {result['b']}: {result['patients']} test {people(result)} in common; "
          "95 % intervals, the same resamples for both; *: less is better")
    for task, scores in result.items():
        if isinstance(scores, dict):
            rows = []
            for label, own in {"": scores, **scores.get("per_label", {})}.items():
                rows += [difference_row(label, name, own[name]) for name in own if name in NAMES]
            print_warnings(scores["warnings"])
            print_columns([f"{task}, {scores['units']} units", "a", "b", "a - b", "constant"], rows)


def difference_row(label, name, entry):
    title = f"{label} {NAMES[name]}".strip()
    if name in LOWER_IS_BETTER:
        title += " *"
    same = ""
    if "constant" in entry:
        same = number(entry["constant"]["value"], entry["a"]["value"])
    return [title, entry["a"], entry["b"], entry["difference"], same]
