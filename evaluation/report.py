"""A run as one web page, and as a model card: what was trained on what, how well it does, and what it cannot know.

    python report.py runs/NAME             writes runs/NAME/report.html; train.py does so at its end

The page is one file: pictures are inside it, it asks nothing of the network and runs no script. Everything comes from the run
folder. Text of the user's (names of patients, columns, classes) becomes HTML in one place, `cell`, and Markdown in another, `plain`;
the card, which is meant to be published, holds no names of patients.
"""
import base64
import html
import os
import re
import struct
import sys

import numpy as np

from evaluation.canvas import PALETTE
from evaluation.plots import limits, nice, ticks
from evaluation.run_text import (
    caveats, command, facts, headline, interval, number, read_run, split_table, tables, validated,
)
from plumbing.run_folder import write_whole


COLORS = ["#%02x%02x%02x" % color for color in PALETTE]      # as many lines can be told apart
OPAQUE, NO_BREAK = ' fill-opacity=".45"', r"<span>\1</span>"


def questions(task, rows):
    """-> {label or class: probability, answer} of the units where it is known; of two classes the second only."""
    found = {}
    for i, name in enumerate(task.classes if task.kind in ("classes", "labels") else ()):
        if task.kind == "classes" and len(task.classes) == 2 and i == 0:
            continue
        asked = f"{task.name}[{name}]" if task.kind == "labels" else task.name
        known = [row for row in rows if row[f"{asked} target"]]
        yes = [float(row[f"{asked} target"]) if task.kind == "labels" else row[f"{asked} target"] == name for row in known]
        found[name] = np.array([float(row[f"{task.name}[{name}] predicted"]) for row in known]), np.array(yes, float)
    return found


def roc(probability, answer):
    """-> false positive rate, true positive rate at every threshold, from (0, 0) to (1, 1)."""
    order = np.argsort(-probability, kind="stable")
    last = np.r_[np.flatnonzero(np.diff(probability[order])), len(order) - 1]                # of every distinct threshold
    true, false = np.cumsum(answer[order])[last], np.cumsum(1 - answer[order])[last]
    return np.r_[0, false / false[-1]], np.r_[0, true / true[-1]]


def svg(kind, series, xlabel, ylabel, identity=False):
    """{name: (xs, ys)} -> a chart as SVG. kind: line, dots, or bars, whose xs are the edges; identity: the line y = x, and one
    scale for both axes, which is 0 to 1 for lines."""
    x, y = (np.concatenate([np.asarray(pair[axis], float) for pair in series.values()]) for axis in (0, 1))
    both = limits([0, 1] if kind == "line" else np.append(x, y))
    (x0, x1), (y0, y1) = (both, both) if identity else (limits(x), limits(y))
    if kind == "bars":
        (x0, x1), (y0, y1) = (x[0], x[-1]), (0, 1.05 * y.max() or 1)

    def px(a, b):
        return f"{48 + 322 * (a - x0) / (x1 - x0):.1f}", f"{230 - 205 * (b - y0) / (y1 - y0):.1f}"

    parts = [f'<svg viewBox="0 0 380 272" role="img" aria-label="{cell(ylabel)} over {cell(xlabel)}">',
             '<path class="axis" d="M48 25V230H370"/>',
             f'<text x="48" y="14">{cell(ylabel)}</text>', f'<text x="209" y="268" class="middle">{cell(xlabel)}</text>']
    for value, name in ticks(x0, x1, whole=xlabel == "epoch").items():
        a, _ = px(value, y0)
        parts.append(f'<path class="axis" d="M{a} 230v4"/><text x="{a}" y="247" class="middle">{name}</text>')
    for value, name in ticks(y0, y1, whole=kind == "bars").items():
        _, b = px(x0, value)
        parts.append(f'<path class="axis" d="M44 {b}h4"/><text x="40" y="{b}" dy=".35em" class="end">{name}</text>')
    if identity:
        parts.append('<path class="axis" d="M{} {}L{} {}"/>'.format(*px(x0, y0), *px(x1, y1)))
    if kind == "bars" and x0 < 0 < x1:
        parts.append('<path class="axis" d="M{} {}L{} {}"/>'.format(*px(0, y0), *px(0, y1)))
    for (xs, ys), color in zip(series.values(), COLORS * len(series)):
        points = [px(a, b) for a, b in zip(xs, ys)]
        if kind == "bars":
            parts += [f'<path fill="{color}"{OPAQUE} d="M{a} 230V{top}H{b}V230Z" stroke="#fff" stroke-width=".6"/>'
                      for (a, top), (b, _) in zip(points, [*points[1:], px(xs[-1], 0)])]
            continue
        if kind == "line":
            parts.append(f'<polyline fill="none" stroke="{color}" stroke-width="1.7" points="{" ".join(map(",".join, points))}"/>')
        if kind == "dots" or len(points) <= 12:
            parts += [f'<circle cx="{a}" cy="{b}" r="2.6" fill="{color}"{OPAQUE * (kind == "dots")}/>' for a, b in points]
    return "".join([*parts, "</svg>"])


def charts(run, task):
    """-> [(SVG, caption, names of the lines)] of a task."""
    if task.kind == "regression":
        pairs = np.array([[float(row[f"{task.name} target"]), float(row[f"{task.name} predicted"])] for row in run.predictions
                          if row[f"{task.name} target"]]).reshape(-1, 2)
        if len(pairs) < 2:
            return []
        errors = pairs[:, 1] - pairs[:, 0]
        step = nice(max(np.ptp(errors), abs(errors).max() / 100, 1e-9) / 20)
        edges = step * np.arange(np.floor(errors.min() / step), np.floor(errors.max() / step) + 2)
        bars = edges, [*np.histogram(errors, edges)[0], 0]
        return [(svg("dots", {"": pairs.T}, f"actual {task.name}", f"predicted {task.name}", True), "Predicted and actual", ()),
                (svg("bars", {"": bars}, f"predicted - actual {task.name}", f"{run.unit}s"),
                 f"Errors; their mean is {number(errors.mean())}", ())]
    asked = {name: pair for name, pair in questions(task, run.predictions).items() if len(set(pair[1])) == 2}
    if not asked:
        return []
    most = sorted(asked, key=lambda name: -asked[name][1].sum())[:len(COLORS)]
    shown = [name for name in asked if name in most]
    note = f", the {len(shown)} with most positives of {len(asked)}" * (len(asked) > len(shown))
    found = [(svg("line", {name: roc(*asked[name]) for name in shown}, "1 - specificity", "sensitivity", True), f"ROC{note}", shown)]
    if bins := task.scores.get("reliability"):                     # empty bins are None
        series = {name: [[x for x in bins[name][key] if x is not None] for key in ("predicted", "observed")] for name in shown}
        found.append((svg("line", series, "predicted probability, ten bins", "share observed", True),
                      f"Reliability{note}: on the grey line a probability means what it says; bins of few {run.unit}s scatter", shown))
    return found


def learning_curves(run):
    """-> [(SVG, caption, ())]: training loss, and the number that chose the best epoch."""
    values, _, name = validated(run)
    lines = ([float(row["train_loss"]) for row in run.log], "loss", "Training"), (values, name, "Validation, which chose the best epoch")
    shown = [([(float(row["epoch"]), y) for row, y in zip(run.log, ys) if np.isfinite(y)], *words) for ys, *words in lines]
    return [(svg("line", {"": list(zip(*points))}, "epoch", label), caption, ()) for points, label, caption in shown if points]


STYLE = """
:root { color-scheme: light }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 3rem 1.25rem 4rem; max-width: 52rem; background: #fff; color: #1d1f21;
       font: 1.0625rem/1.55 Charter, "Bitstream Charter", "Iowan Old Style", "Palatino Linotype", Georgia, serif }
h1 { margin: 0 0 .5rem; font-size: 2rem; font-weight: 600; line-height: 1.15; letter-spacing: -.01em; overflow-wrap: anywhere }
p, li { max-width: 42rem }
h2 { margin: 2.5rem 0 .75rem; padding-top: .9rem; border-top: 1px solid #d9dcdf; font-size: 1.25rem; font-weight: 600;
     overflow-wrap: anywhere }
p { margin: .5rem 0 }
.lead { font-size: 1.2rem; line-height: 1.45; color: #33373a }
.wide { overflow-x: auto; margin: 1.1rem 0 }
table { border-collapse: collapse; width: 100%; font-size: .94rem; font-variant-numeric: lining-nums tabular-nums }
caption { text-align: left; color: #5d6368; font-size: .9rem; padding-bottom: .35rem }
th, td { padding: .32rem .8rem .32rem 0; text-align: left; vertical-align: baseline; border-bottom: 1px solid #eceef0 }
th { font-weight: 600; border-bottom-color: #b9bec3 }
th + th, td + td { white-space: nowrap }
th:last-child, td:last-child { padding-right: 0 }
td:first-child { min-width: 5.5rem }
.facts td + td { white-space: normal; overflow-wrap: anywhere }
.facts td:first-child { color: #5d6368; width: 9rem }
.count td + td, .count th + th { text-align: right; padding: .32rem 0 .32rem .7rem }
.count th { font-size: .88em; white-space: normal; vertical-align: bottom }
small, .why { color: #5d6368; font-size: .88em }
.entry .why { white-space: normal }
small + small { margin-left: .5em }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem 2rem }
figure { margin: .75rem 0; break-inside: avoid }
svg { display: block; width: 100%; max-width: 27rem; height: auto; fill: #5d6368;
      font: 11px/1 system-ui, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif }
.axis { fill: none; stroke: #b9bec3 }
.middle { text-anchor: middle }
.end { text-anchor: end }
.look { margin: 1.2rem -.75rem; overflow-x: auto }
img { display: block; max-width: 100%; height: auto }
figcaption { margin-top: .4rem; color: #5d6368; font-size: .9rem; overflow-wrap: anywhere }
pre { margin: .75rem 0; padding: .8rem 1rem; background: #f5f6f7; white-space: pre-wrap; overflow-wrap: anywhere;
      font: .82rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace }
pre span, .key { display: inline-block; max-width: 100% }
.key { margin-right: .6rem }
li { margin: .35rem 0 }
@media (max-width: 34rem) {
  body { padding-top: 1.5rem } th, td { padding-right: .6rem }
  .entry th + th, .entry td + td { white-space: normal } td small { display: block; margin: 0; white-space: nowrap }
  .look { margin: 1.2rem 0 }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt } h2 { break-after: avoid } tr { break-inside: avoid }
  .wide, .look { overflow: visible; break-inside: avoid } .entry td + td { white-space: normal } td small { white-space: nowrap }
  img { max-height: 22cm; width: auto }
}
"""


def cell(content):
    """A text, a number or an entry {value, low, high} -> HTML. The one place where text becomes HTML."""
    if not isinstance(content, dict):
        return html.escape(str(content))
    if content["value"] is None:
        return f'<span class="why">undefined: {html.escape(content["reason"])}</span>'
    more = interval(content), content.get("of")
    return number(content["value"]) + "".join(f" <small>{html.escape(said)}</small>" for said in more if said)


def html_table(caption, head, rows, kind=""):
    def row(cells, tag):
        return "<tr>" + "".join(f"<{tag}>{cell(content)}</{tag}>" for content in cells) + "</tr>"

    return "\n".join([f'<div class="wide"><table class="{kind}">', *[f"<caption>{cell(caption)}</caption>"] * bool(caption),
                      *[f"<thead>{row(head, 'th')}</thead>"] * bool(head),
                      "<tbody>", *(row(cells, "td") for cells in rows), "</tbody></table></div>"])


def html_charts(charts):
    """[(SVG, caption, names)] -> figures side by side, the names in the colors of their lines."""
    parts = []
    for picture, caption, names in charts:
        key = [f'<span class="key"><b style="color:{color}">&#9632;</b> {cell(name)}</span>' for name, color in zip(names, COLORS)]
        lines = [cell(caption), *[" ".join(key)] * (len(key) > 1)]
        parts.append(f"<figure>{picture}<figcaption>{'<br>'.join(lines)}</figcaption></figure>")
    return f'<div class="charts">{"".join(parts)}</div>'


def html_picture(path):
    """A sheet of pictures, which on a phone is not made smaller than one can see: it slides sideways."""
    with open(path, "rb") as file:
        data = file.read()
    least, inside = 0.42 * struct.unpack(">I", data[16:20])[0], base64.b64encode(data).decode()        # a PNG's width
    return (f'<figure class="look"><img style="min-width:{least:.0f}px" alt="{cell(os.path.basename(path))}" '
            f'src="data:image/png;base64,{inside}"></figure>')


def page(run):
    """-> the whole page, HTML."""
    body = [f"<h1>{cell(run.name)}</h1>", f'<p class="lead">{cell(headline(run))}</p>', html_table("", [], facts(run), "facts"),
            html_table(*split_table(run), "count")]
    for task in run.tasks:
        body.append(f"<h2>Results: {cell(task.name)}</h2>")
        body += [html_table(*each, "count" if each[0].startswith("Confusion") else "entry") for each in tables(task, run.unit)]
        body.append(html_charts(charts(run, task)))
    body += ["<h2>Learning curves</h2>", html_charts(learning_curves(run))]
    folder = os.path.join(run.folder, "figures")                   # errors and scatter are among the charts already
    there = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    looks = [name for name in there if name.endswith(".png") and not name.endswith(("_errors.png", "_scatter.png"))]
    maps = run.metrics.get("localization", {})
    if looks or maps:
        body.append("<h2>What the model looked at</h2>")
        if maps:
            caption = "Do the maps point at the finding? Strongest patch touches the box, and share of the map inside it; localization.py"
            body.append(html_table(caption, ["map", "pointing game", "mass in the box"],
                                   [[name, entry["pointing"], entry["mass"]] for name, entry in maps.items()], "entry"))
        body += [*(html_picture(os.path.join(folder, name)) for name in looks)]
    body += ["<h2>Limits</h2>", "<ul>", *(f"<li>{cell(text)}</li>" for text in caveats(run)), "</ul>",
             "<h2>The command</h2>", f"<pre>{re.sub(r'(--[^ ]+( [^ -][^ ]*)?)', NO_BREAK, cell(command(run.args)))}</pre>"]
    return "\n".join(['<!doctype html>', '<html lang="en">', "<head>", '<meta charset="utf-8">',
                      '<meta name="viewport" content="width=device-width, initial-scale=1">', f"<title>{cell(run.name)}</title>",
                      f"<style>{STYLE}</style>", "</head>", "<body>", *body, "</body>", "</html>", ""])


def write_report(folder):
    """Write report.html to a run folder; -> its path."""
    path = os.path.join(folder, "report.html")
    text = page(read_run(folder))
    write_whole(path, lambda file: file.write(text))
    return path


if __name__ == "__main__":
    try:
        print(write_report(*sys.argv[1:]) if len(sys.argv) == 2 else __doc__)
    except ValueError as error:
        print(f"report.py: {error}", file=sys.stderr)
        sys.exit(2)
