"""The maps of two models over the same findings, side by side, with the boxes: LT-ViT's figure of two runs.

    python train.py --model vit --data chest --name vit
    python train.py --model lt_vit --data chest --name lt_vit
    python -m experiments.maps runs/vit runs/lt_vit --out maps.png

Of test patients; a finding per label. Both runs read the same table, and have the same split (--seed).
"""
from eval import own_split
from evaluation.figures import findings_of, heat_figure, maps_of, views_of
from evaluation.localization import find_boxes
from evaluation.predict import predict_images
from plumbing.columns import tabulate
from plumbing.command import Parser, run_main
from plumbing.device import find_device
from plumbing.match import match
from plumbing.prepare import load_data, run_options
from plumbing.saved_run import open_model


def findings_in(run, device):
    """Run folder -> {(path, label): (boxes in shares, views of the image, {caption: (rows, columns)})} of its
    test patients."""
    model, tasks, args = open_model(run)
    cohort = match(load_data(args), tasks, run)
    cohort, _ = tabulate(cohort, model.columns)
    options = run_options(args, model.to(device), cohort, device)
    task, _ = findings_of(tasks)
    findings = {}
    if not task:
        return findings
    boxes_of = find_boxes(None, cohort, task.classes, options["size"])

    def watch(batch, out):
        for i, [image] in enumerate(batch["index"]):
            views = list(views_of(cohort, image, options["size"], model.config))
            for label, maps in maps_of(tasks, model.config, out, i, boxes_of[image]):
                maps = {f"{run}: {name}": weights for name, weights in maps.items()}
                findings[cohort.paths[image], task.classes[label]] = boxes_of[image][label], views, maps

    images = [image for image in own_split(cohort, args.data, run)["test"] if image in boxes_of]
    if images:
        predict_images(model, tasks, cohort, images, options, watch)
    return findings


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("runs", nargs=2, help="two run folders")
    parser.add_argument("--out", default="maps.png", help="the picture")
    args = parser.parse_args(argv)
    first, second = [findings_in(run, find_device("auto")) for run in args.runs]
    groups = {}                                                    # {label: its first finding}
    for finding, (boxes, views, maps) in first.items():
        label = finding[1]
        if label not in groups and finding in second:
            groups[label] = views, label, boxes, maps | second[finding][-1]
    if not groups:
        raise ValueError(f"{args.runs[0]}, {args.runs[1]}: the test patients of both share no finding "
                         "with a box and a map; boxes.csv stands beside the table")
    heat_figure(groups.values(), "The same findings by two models").save(args.out)
    print(args.out)


if __name__ == "__main__":
    run_main(main)
