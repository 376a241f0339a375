"""The first lines of a training: what is trained on what, and by which kernels.
"""
from plumbing import parallel
from plumbing.sizes import count


def print_start(run, args, ready, device):
    """Print them. run: its folder; ready: what `prepare` returned."""
    name = args.model
    if hasattr(args, "mode"):
        name += f" {args.mode}"
    print(f"{run}: {name}, {count(ready.model) / 1e6:.2f} M parameters, {device}")
    if parallel.world() > 1:
        print(f"{parallel.world()} processes, {args.batch_size} samples per step in all")
    print("predicts", ", ".join(f"{task.name} ({task.text})" for task in ready.tasks))
    columns = ", ".join(f"{column.name} ({column.kind})" for column in ready.model.columns)
    if columns:
        print("sees", columns, "beside the image")
    for line in ready.notes:
        if line:
            print(line)
    if ready.options["autocast"]:
        print("bfloat16 products (--amp off: float32)")
