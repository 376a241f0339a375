"""A run as one web page: what was trained on what, how well it does, and what it cannot know.

    python -m evaluation.report runs/NAME          writes runs/NAME/report.html; train.py does so at its end

The page is one file: its pictures are inside it, it asks nothing of the network and runs no script.
Everything comes from the run folder. What a user wrote (names of patients, columns, classes) becomes HTML in
one place, `cell`.
"""
import base64
import html
import os
import re
from os.path import exists, join
from pathlib import Path
from urllib.parse import quote

from evaluation.card import card
from evaluation.picture_file import png, read_picture, save_picture
from evaluation.result_tables import cell_text
from evaluation.run_charts import learning_curves, task_charts
from evaluation.run_text import document, read_run
from plumbing.command import Parser, run_main
from plumbing.run_folder import write_folder, write_whole
from plumbing.saved_run import evaluated


STYLE = """
:root { color-scheme: light }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 3rem 1.25rem 4rem; max-width: 52rem; background: #fff; color: #1d1f21;
       font: 1.0625rem/1.55 Charter, "Bitstream Charter", "Iowan Old Style", Georgia, serif }
h1, h2 { font-weight: 600; overflow-wrap: anywhere }
h1 { margin: 0 0 .5rem; font-size: 2rem; line-height: 1.15; letter-spacing: -.01em }
h2 { margin: 2.5rem 0 .75rem; padding-top: .9rem; border-top: 1px solid #d9dcdf; font-size: 1.25rem }
p, li { max-width: 42rem }
p { margin: .5rem 0 }
.lead { font-size: 1.2rem; line-height: 1.45; color: #33373a }
.wide { overflow-x: auto; margin: 1.1rem 0 }
table { border-collapse: collapse; width: 100%; font-size: .94rem;
        font-variant-numeric: lining-nums tabular-nums }
caption { text-align: left; color: #5d6368; font-size: .9rem; padding-bottom: .35rem }
th, td { padding: .32rem .8rem .32rem 0; text-align: left; vertical-align: baseline;
         border-bottom: 1px solid #eceef0 }
th { font-weight: 600; border-bottom-color: #b9bec3 }
th + th, td + td { white-space: nowrap }
th:last-child, td:last-child { padding-right: 0 }
td:first-child { min-width: 5.5rem }
.facts td + td { white-space: normal; overflow-wrap: anywhere }
.facts td:first-child { color: #5d6368; width: 9rem }
.facts thead { display: none }
.count td + td, .count th + th { text-align: right; padding: .32rem 0 .32rem .7rem }
.count th { font-size: .88em; white-space: normal; vertical-align: bottom }
caption:has(span:empty) { display: none }
caption span { display: inline-block; position: sticky; left: 0; max-width: min(42rem, calc(100vw - 2.5rem)) }
.entry td:last-child { white-space: normal }
.entry :is(th, td):first-child { position: sticky; left: 0; background: #fff }
.warning { padding-left: .7rem; border-left: 3px solid #d55e00 }
small { color: #5d6368; font-size: .88em }
table:has(th:nth-child(6)) { font-size: .86rem }
table:has(th:nth-child(6)) small { display: block; white-space: nowrap }
table:has(th:nth-child(6)) :is(th, td) { padding-right: .4rem }
.wide:has(th:nth-child(6)) { width: max-content; min-width: 100%;
                             max-width: min(100vw - 2.5rem, 50vw + 26rem - 2.5rem) }
.legend { color: #5d6368; font-size: .9rem }
.charts { display: grid; gap: 1rem 2rem;
          grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)) }
figure { margin: .75rem 0; break-inside: avoid }
.charts figure { overflow-x: auto }
.charts img { margin-left: -.5rem }
.look { margin: 1.5rem 0; break-inside: avoid }
.look div { display: flex; gap: 0 .75rem; break-inside: avoid }
.look figure { margin: 0 0 .75rem; max-width: 100%; min-width: 0 }
.look figcaption { width: min-content; min-width: 100% }
h3 { margin: 0 0 .5rem; font-size: 1rem; font-weight: 600; overflow-wrap: anywhere }
img { display: block; max-width: 100%; height: auto }
figcaption { margin-top: .4rem; color: #5d6368; font-size: .9rem; overflow-wrap: anywhere }
pre { margin: .75rem 0; padding: .8rem 1rem; background: #f5f6f7;
      white-space: pre-wrap; overflow-wrap: anywhere;
      font: .82rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace }
pre span { display: inline-block; max-width: 100% }
li { margin: .35rem 0 }
@media screen and (max-width: 54rem) { .look div { flex-wrap: wrap } }
@media (max-width: 34rem) {
  body { padding-top: 1.5rem }
  th, td { padding-right: .6rem }
  .entry th + th, .entry td + td { white-space: normal }
  td small { display: block }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt }
  h2, h3 { break-after: avoid }
  tr { break-inside: avoid }
  .wide, .charts figure { overflow: visible; break-inside: avoid }
  .entry td + td { white-space: normal }
  td small { white-space: nowrap }
}
"""


COLUMN = 380                                         # px of a column of charts, at least, where there are two
TEXTS = {  # kind of text in `document`: its HTML
    "title": "<h1>{}</h1>",
    "heading": "<h2>{}</h2>",
    "lead": '<p class="lead">{}</p>',
    "warning": '<p class="warning">{}</p>',
    "legend": '<p class="legend">{}</p>',
    "limit": "<p>{}</p>",
}


# -----------------------------------------------------------------------------
# parts of the page


def cell(content):
    """A text, a number or an entry {value, low, high} -> HTML. The one place where text becomes HTML."""
    text = html.escape(cell_text(content))
    if isinstance(content, dict):                    # 3.880 (2.910 to 4.760)
        value, _, rest = text.partition(" ")
        text = f"{value} <small>{rest}</small>"
    return text


def html_row(cells, tag):
    return "<tr>" + "".join(f"<{tag}>{cell(content)}</{tag}>" for content in cells) + "</tr>"


def html_table(table, kind):
    """(caption, head, rows) -> HTML. kind: a class of STYLE."""
    caption, head, rows = table
    body = "\n".join(html_row(cells, "td") for cells in rows)
    return (f'<div class="wide"><table class="{kind}"><caption><span>{cell(caption)}</span></caption>\n'
            f"<thead>{html_row(head, 'th')}</thead>\n<tbody>\n{body}\n</tbody></table></div>")


def html_figure(picture, alt, text, width, least=0):
    """A picture inside the page, width px wide, and its caption; on a narrow screen less, but not below
    `least`, and across all columns if that does not fit into one."""
    across = ""
    if least > COLUMN:
        across = ' style="grid-column: 1 / -1"'
    return (f'<figure{across}><img width="{width}" style="min-width:{least}px" alt="{cell(alt)}" '
            f'src="data:image/png;base64,{base64.b64encode(png(picture)).decode()}">'
            f"<figcaption>{cell(text)}</figcaption></figure>")


def html_charts(charts):
    """Charts side by side at half their size, where letters have 14 px; a narrow screen leaves them 12."""
    figures = []
    for chart in charts:
        width = chart.picture.width // 2
        figures.append(html_figure(chart.picture, chart.alt(), chart.text, width, least=width * 12 // 14))
    return f'<div class="charts">{"".join(figures)}</div>'


def html_sheet(path):
    """A sheet of pictures, row by row; a narrow screen wraps a row, and paper shrinks it."""
    title, text, rows = read_picture(path)
    body = [f"<h3>{cell(title)}</h3><p>{cell(text)}</p>"]
    for row in rows[-1:] + rows[:-1]:                # the last one of maps is their scale
        figures = [html_figure(picture, f"{title}, {caption}", caption, picture.width)
                   for picture, caption in row]
        body.append(f"<div>{''.join(figures)}</div>")
    return f'<section class="look">{"".join(body)}</section>'


# -----------------------------------------------------------------------------
# the page


LEARNING = None                                      # no task has this name
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def page(run, charts, pictures=True):
    """-> the whole page, HTML. charts: of `run_figures`. pictures: with those of patients?"""
    return PAGE.format(title=cell(run.name), style=STYLE, body="\n".join(sections(run, charts, pictures)))


def sections(run, charts, pictures):
    """Yield what stands on the page, from top to bottom."""
    for kind, content in document(run):
        if kind in TEXTS:
            yield TEXTS[kind].format(cell(content))
        elif kind == "charts":
            yield html_charts(charts[content.name])
        elif kind == "pictures":
            if charts[LEARNING]:
                yield "<h2>Learning curves</h2>"
                yield html_charts(charts[LEARNING])
            if pictures:
                sheets = sorted(Path(run.folder).glob("figures/patient_*.png"))
                if sheets:
                    yield "<h2>What the model looked at</h2>"
                    yield from map(html_sheet, sheets)
                yield from other_pages(run)
        elif kind == "command":
            words = re.sub(r"(--[^ ]+( [^ -][^ ]*)?)", r"<span>\1</span>", cell(content))
            yield f"<pre>{words}</pre>"              # no break inside a flag
        else:
            yield html_table(content, kind)


def run_figures(run):
    """-> {name of a task, or LEARNING: its charts}."""
    return {task.name: task_charts(run, task) for task in run.tasks} | {LEARNING: list(learning_curves(run))}


def other_pages(run):
    """Yield links to the pages of the run's other evaluations, in its folder."""
    paths = sorted(Path(run.folder).glob("*/report.html"))
    if paths:
        yield "<h2>Evaluated on other patients too</h2>\n<ul>"
        for path in paths:
            name = path.parent.name
            yield f'<li><a href="{cell(quote(name))}/report.html">{cell(name)}</a></li>'
        yield "</ul>"


def write_report(folder, results=None):
    """Write report.html, and its charts as files to figures/, to a run folder; -> the page's path.

    results: as in read_run; the page then stands there."""
    run = read_run(folder, results)
    with evaluated(folder):
        charts = run_figures(run)
        text = page(run, charts)
    figures = join(run.folder, "figures")
    os.makedirs(figures, exist_ok=True)
    for chart in sum(charts.values(), []):
        save_picture(chart.picture, figures, chart.name, text=chart.alt())
    path = join(run.folder, "report.html")
    write_whole(path, text)
    return path


def share(folder, to):
    """Write report.html and README.md, the card, of a run to a new folder: without pictures of patients,
    their ids, and paths. ValueError when the folder exists."""
    if exists(to):
        raise ValueError(f"--share {to}: exists; it is not overwritten")
    run = read_run(folder, public=True)
    with evaluated(folder):
        text = page(run, run_figures(run), pictures=False)
        words = card(run)
    with write_folder(to) as fresh:
        write_whole(join(fresh, "report.html"), text)
        write_whole(join(fresh, "README.md"), words)


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("run", help="folder of an evaluated run")
    print(write_report(parser.parse_args(argv).run))


if __name__ == "__main__":
    run_main(main)
