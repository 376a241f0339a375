"""Train any model of this project on any cohort: flags -> data, model, loop, run folder, test evaluation.

    python train.py --model multivit --mode multi --n 3 --r 2
    torchrun --nproc-per-node=4 -- train.py ...                    many GPUs: parallel.py

Everything a run leaves is in its folder (run_folder.py). Killed at any moment it goes on with --resume to the same weights, bit for bit
on a CPU; Ctrl-C and SIGTERM save at the next step.
"""
import functools
import math
import os
import re
import time
from contextlib import nullcontext, redirect_stdout
from daft import DAFTViT
from dataclasses import replace

import torch
import torch.nn.functional as F
from huggingface_hub.utils import tqdm

from data import Samples, make_loader
from eval import evaluate
from evaluation.card import write_card
from evaluation.predict import predict
from evaluation.printing import print_table
from evaluation.report import write_report
from evaluation.scores import main_metric
from plumbing import parallel
from plumbing.columns import tabulate
from plumbing.command import Stop, run_main
from plumbing.device import fast_float32, find_device
from plumbing.flags import listed, parse
from plumbing.models import build_model, count, open_model
from plumbing.prepare import (
    add_features, classes_of, input_columns, load_data, run_options, seen_before, settle, usable,
)
from plumbing.run_folder import load_state, lock, new_run, recover, save_model, write_csv, write_log
from plumbing.splits import split_patients
from plumbing.targets import fit_tasks


def known_counts(tasks, targets, present=None):
    """-> (2, tasks): how many targets are known, and, with present (B, N), how many counted once for every image of their patient."""
    rows = []
    for task in tasks:
        target = targets[task.name][..., 0] if task.kind == "survival" else targets[task.name]
        known = (~target.isnan()).reshape(len(target), -1).sum(1)  # (B,)
        rows.append(torch.stack([known.sum(), (known if present is None else known * present.sum(1)).sum()]))
    return torch.stack(rows, 1)


def task_loss(tasks, logits, targets, counts=None):
    """Sum over the tasks of the mean over the known targets. logits {task: (..., outputs)}, targets {task: (...) or (..., L)}.

    counts (tasks,): how many targets are known, here and in the other parts of the batch, so that the losses of its parts add up to
    that of the whole. regression: squared error in units of the training targets' standard deviation; classes: cross entropy; labels: binary
    cross entropy, mean over the labels; survival: cox_loss. An unknown target is NaN and counts for nothing."""
    total, counts = 0.0, known_counts(tasks, targets)[0] if counts is None else counts
    for task, count in zip(tasks, counts.clamp(min=1)):
        y, target = logits[task.name].float(), targets[task.name]
        if task.kind == "survival":                                # target (..., 2)
            total = total + cox_loss(y.flatten(), *target.flatten(0, -2).unbind(1), count)
            continue
        known, safe = ~target.isnan(), target.nan_to_num()
        if task.kind == "regression":
            each = (y.squeeze(-1) - (safe - task.center) / task.scale).square()
        elif task.kind == "classes" and torch.are_deterministic_algorithms_enabled():        # CUDA has such a form for (n, C) only
            each = F.cross_entropy(y.flatten(0, -2), safe.flatten().long(), reduction="none").view(target.shape)
        elif task.kind == "classes":
            each = F.cross_entropy(y.movedim(-1, 1), safe.long(), reduction="none")
        else:
            weight = on_device(task.positive_weight, y.device) if task.positive_weight else None
            each = F.binary_cross_entropy_with_logits(y, safe, reduction="none", pos_weight=weight)
        total = total + (each * known).sum() / count
    return total


@functools.cache
def on_device(values, device):
    """A tuple as a tensor, copied to the device once: a copy in every step would wait for the GPU."""
    return torch.tensor(values, device=device)


def cox_loss(risk, time, event, count=None):
    """(n,) each -> - sum over events i of (risk_i - log sum over j with time_j >= time_i of exp risk_j) / count, by default n.

    Cox's partial likelihood with Breslow's ties; what is seen at once, a batch or its part, is the risk set. 0 without an event; a NaN
    time counts for nothing."""
    known = ~time.isnan()
    gone = (time < time[:, None]) | ~known                         # (n, n): j is not at risk at the time of i
    at_risk = risk.expand_as(gone).masked_fill(gone.fill_diagonal_(False), -torch.inf).logsumexp(1)
    return ((at_risk - risk) * (event.nan_to_num() * known)).sum() / (known.sum().clamp(min=1) if count is None else count)


def model_loss(tasks, out, targets, present=None, counts=None):
    """The loss of the last stage, and of a first stage the mean over the images that are present (MultiViT, section 3.1).

    counts: known_counts of the whole batch, where this is a part of it."""
    stage1 = out.get("stage1")
    if stage1 and present is None:
        present = torch.ones_like(next(iter(stage1.values()))[..., 0], dtype=torch.bool)
    counts = known_counts(tasks, targets, present) if counts is None else counts
    loss = task_loss(tasks, out["logits"], targets, counts[0])
    if stage1:                                                     # every image of a patient carries his target
        N = present.shape[1]
        each = {name: target[:, None].expand(-1, N, *target.shape[1:]).masked_fill(
            ~present.view(*present.shape, *[1] * (target.dim() - 1)), float("nan")) for name, target in targets.items()}
        loss = loss + task_loss(tasks, out["stage1"], each, counts[1])
    return loss


def lr_at(step, steps, warmup, lr, lr_end):
    """Linear from 0 to lr in `warmup` steps, then linear to lr_end at the last."""
    if step < warmup:
        return lr * (step + 1) / warmup
    return lr + (lr_end - lr) * (step - warmup) / max(1, steps - 1 - warmup)


def make_optimizer(model, args, device):
    """AdamW; weight decay on matrices only, not on biases, norms, tokens and positions."""
    groups = [{"params": [], "weight_decay": args.weight_decay}, {"params": [], "weight_decay": 0.0}]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[parameter.ndim < 2 or bool(re.search(r"token|pos_embed", name))]["params"].append(parameter)
    return torch.optim.AdamW(groups, lr=args.lr, fused=device.type in ("cuda", "cpu"))


class Pending:
    """What a step found, [loss, norm of the gradient, processes that were told to stop], on its way to the CPU: it is looked at one step
    later, so that the GPU always has work to do. place, paths: where and on what that was."""

    def __init__(self, found, place, paths):
        self.place, self.paths, self.done = place, paths, None
        self.copy = found.to("cpu", non_blocking=found.device.type == "cuda")
        if found.device.type == "cuda":
            self.done = torch.cuda.Event()
            self.done.record()

    def check(self, run):
        """-> was anyone told to stop? ValueError when loss or gradient are not finite."""
        if self.done:
            self.done.synchronize()
        loss, norm, told = self.copy.tolist()
        if not math.isfinite(loss) or not math.isfinite(norm):
            paths = [path for paths in self.paths for path in paths]
            raise ValueError(f"the loss is {loss} at {self.place}, the gradient's norm {norm}; the batch held {', '.join(paths[:6])}"
                             + f" and {len(paths) - 6} more" * (len(paths) > 6) + f"; {run}/best and last are from before")
        return told > 0


def train_step(net, model, tasks, optimizer, batch, args, options, told):
    """One step on this process's share of a batch, in --accumulate parts -> [its summand of the batch's loss, norm of the gradient
    before it was clipped, processes told to stop] on the device. No number in it is read back, so nothing waits for a GPU."""
    device = options["device"]
    ahead = device.type == "cuda"                                  # other devices do not wait for what is still being copied
    inputs = {name: batch[name].to(device, non_blocking=ahead) for name in model.inputs}
    targets = {name: target.to(device, non_blocking=ahead) for name, target in batch["targets"].items()}
    counts = known_counts(tasks, targets, inputs.get("present"))
    shared = parallel.add(torch.cat([counts.flatten(), counts.new_full((1,), bool(told))]))  # in one message
    counts, told, loss = shared[:-1].view_as(counts), shared[-1], 0.0
    size = -(-len(batch["path"]) // args.accumulate)
    starts = range(0, len(batch["path"]), size)
    optimizer.zero_grad(set_to_none=True)
    for start in starts:
        part = {name: tensor[start:start + size] for name, tensor in inputs.items()}
        with nullcontext() if net is model or start == starts[-1] else net.no_sync():        # gradients meet once a step
            with torch.autocast(device.type, dtype=options["autocast"], enabled=options["autocast"] is not None):
                out = net(*part.values())
            each = model_loss(tasks, out, {name: target[start:start + size] for name, target in targets.items()}, part.get("present"), counts)
            (each * parallel.world()).backward()                   # of whose gradients the processes take the mean
        loss = loss + each.detach()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)                     # what it was before
    optimizer.step()
    return torch.stack([loss, norm, told.to(loss.dtype)])


def main(argv=None):
    args = parse(argv)
    with parallel.together(find_device(args.device)) as device:
        if first := parallel.rank() == 0:
            trained = fit(args, device)
        else:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):                 # one process speaks
                fit(args, device)
    if first:
        finish(*trained)


def fit(args, device):
    """The whole training, as one process of perhaps many; -> what `finish` needs."""
    torch.manual_seed(args.seed)
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")                          # read at the first product
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    cohort = load_data(args)
    settle(args, cohort)
    indices, notes = split_patients(cohort, args.folds, args.fold, args.val, args.seed)
    tasks = fit_tasks(cohort.tasks, cohort, indices["train"], args.positive_weight)
    columns = input_columns(args, cohort, indices["train"])
    cohort, filled = tabulate(replace(cohort, tasks=tasks), columns)
    model, report = build_model(args, tasks, columns)
    model.to(device)
    options, writes = run_options(args, model, cohort, device), parallel.rank() == 0
    kind = "daft_vit" if isinstance(model, DAFTViT) else args.model
    common = (options["size"], options["n"], options["r"], options["channels"])
    learned, unknown = usable(args, cohort, indices["train"])
    train = Samples(cohort, learned, *common, listed(args.augment), train=True, seed=args.seed, folder=options["folder"])
    val = Samples(cohort, indices["val"], *common, folder=options["folder"])
    share = dict(workers=options["workers"], pin_memory=device.type == "cuda", rank=parallel.rank(), world=parallel.world(), fill=args.compile)
    loader, batches = make_loader(train, args.batch_size, args.seed, True, classes=classes_of(args, cohort, train.samples), **share)
    val_loader, _ = make_loader(val, args.batch_size, **share)
    run, held = ((args.resume, lock(args.resume)) if args.resume else new_run(args)) if writes else (None, None)
    run = parallel.collect(run)[0]
    aims = ", ".join(f"{task.name} ({task.kind}{': ' * bool(task.classes)}{' '.join(task.classes)})" for task in tasks)
    sees = [f"sees {', '.join(f'{column.name} ({column.kind})' for column in columns)} beside the image"] * bool(columns)
    many = [f"{parallel.world()} processes, {args.batch_size} samples a step in all"] * (parallel.world() > 1)
    for line in (f"{run}: {args.model}{' ' + args.mode if args.mode else ''}, {count(model) / 1e6:.2f} M parameters, {device}",
                 *many, f"predicts {aims}", *sees, *notes, *filled, *unknown, report, *seen_before(args, cohort, indices),
                 *fast_float32(model, device), *(["bfloat16 products (--amp off: float32)"] * (options["autocast"] is not None))):
        print(line)
    optimizer = make_optimizer(model, args, device)
    state = {"epoch": 0, "step": 0, "best": None, "history": [], "loss": [], "norm": 0.0}
    if writes:
        recover(os.path.join(run, "best")), recover(os.path.join(run, "last"))
    parallel.collect(None)                                         # nobody reads what is still being put in place
    parallel.own_numbers(args.seed)                                # of dropout; the weights are the same in all processes
    if args.resume and os.path.isdir(os.path.join(run, "last")):
        state = load_state(run, model, optimizer, state)
        print(f"resumed after epoch {state['epoch']}, step {state['step']}")
    add_features(args, model, cohort, options)                     # now, that a resumed model has its own weights
    if writes:
        write_log(run, state["history"])                           # a kill may have come between state.pt and log.csv
        where = {patient: split for split, part in indices.items() for patient in (cohort.patients[i] for i in part)}
        write_csv(os.path.join(run, "split.csv"), [("patient", "split", "images"), *((patient, where[patient], len(images))
                                                                                     for patient, images in cohort.groups().items())])
    steps, stop = len(batches), Stop()
    if args.compile:
        torch._dynamo.config.optimize_ddp = not (args.grad_checkpointing or args.chunk)      # older PyTorch cannot have both
        model.compile()
    net = parallel.shared(model, device)
    bar = tqdm(total=args.epochs * steps, initial=state["epoch"] * steps + state["step"], desc="training", unit="step",
               disable=None if writes else True)

    def save(epoch, step, total, largest):
        """What all processes know goes to last/."""
        losses, numbers = zip(*parallel.collect((total, random_numbers())))
        everything = {**state, "epoch": epoch, "step": step, "loss": list(losses), "norm": largest, "random": list(numbers)}
        if writes:
            save_model(os.path.join(run, "last"), kind, model, tasks, {**everything, "optimizer": optimizer.state_dict()})
        parallel.collect(None)                                     # nobody leaves before it is written

    for epoch in range(state["epoch"], args.epochs):
        model.train()
        batches.epoch, batches.start = epoch, state["step"] if epoch == state["epoch"] else 0
        losses = state["loss"] if batches.start and len(state["loss"]) == parallel.world() else [0.0] * parallel.world()
        total, largest = torch.tensor(losses[parallel.rank()], device=device), torch.tensor(state["norm"] if batches.start else 0.0, device=device)
        began, loader.waited, val_loader.waited, pending = time.perf_counter(), 0.0, 0.0, None
        for step, batch in enumerate(loader, batches.start):
            lr = lr_at(epoch * steps + step, args.epochs * steps, args.warmup * steps, args.lr, args.lr_end)
            for group in optimizer.param_groups:
                group["lr"] = lr
            found = train_step(net, model, tasks, optimizer, batch, args, options, stop)
            told = pending.check(run) if pending else False
            pending = Pending(found, f"epoch {epoch + 1} step {step + 1}, lr {lr:.3g}", batch["path"])
            total, largest = total + found[0], torch.maximum(largest, found[1])
            bar.update()
            if (told or stop and parallel.world() == 1) and step < steps - 1:
                pending.check(run)
                save(epoch, step + 1, total.item(), largest.item())
                stop.leave(bar, run)
        pending.check(run)
        loss = parallel.add(total).item() / steps
        parallel.same_buffers(model)
        table = predict(model, tasks, val_loader, device, options["by_image"], options["autocast"])
        name, value, lower = main_metric(tasks, table)
        seconds, waited = time.perf_counter() - began, loader.waited + val_loader.waited
        state["history"].append({"epoch": epoch + 1, "lr": lr, "train_loss": loss, "grad_norm": largest.item(), f"val_{name}": value,
                                 "seconds": round(seconds, 2), "waited": round(waited, 2)})
        better = math.isfinite(value) and (state["best"] is None or (value < state["best"] if lower else value > state["best"]))
        if writes and (better or not os.path.isdir(os.path.join(run, "best"))):
            save_model(os.path.join(run, "best"), kind, model, tasks)
        state.update(epoch=epoch + 1, step=0, best=value if better else state["best"])
        save(epoch + 1, 0, 0.0, 0.0)
        if writes:
            write_log(run, state["history"])
        bar.write(f"epoch {epoch + 1:3}/{args.epochs}   train loss {loss:.4f}   val {name} {value:.4f}{' best' * better}   "
                  f"{seconds:.1f} s, {waited / seconds:.0%} waiting for data")
        if any(parallel.collect(bool(stop))):
            stop.leave(bar, run)
    bar.close()
    return run, held, cohort, indices, options


def finish(run, held, cohort, indices, options):
    """The test patients, once, with the best weights: metrics, pictures, card and page. held: the lock of the run."""
    best, tasks, _ = open_model(run)
    print_table(tasks, evaluate(best.to(options["device"]), tasks, cohort, indices, run, options, by="fst" if "fst" in cohort.columns else None))
    write_card(run)
    print(f"the whole run is in {run}: {os.path.basename(write_report(run))} to look at, metrics.json, predictions.csv, figures/, best/")


def random_numbers():
    """The state of every generator of this process."""
    return {"cpu": torch.get_rng_state(), **({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})}


if __name__ == "__main__":
    run_main(main)
