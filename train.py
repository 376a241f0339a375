"""Train any model of this project on any cohort: flags -> data, model, loop, run folder, test evaluation.

    python train.py --model multivit --mode multi --n 3 --r 2
    python train.py --data my.csv --target pasi,pga --check    show how the data is understood, and stop
    torchrun --nproc-per-node=4 -- train.py ...            many GPUs: plumbing/parallel.py

Here are the loss, the learning rate, the optimizer, one step, and the loop. Flags: plumbing/flags.py and
each model's file; before the first step: plumbing/prepare.py; the run folder: plumbing/run_folder.py. A run
killed at any moment goes on with --resume to the same weights, bit for bit on a CPU.
"""
import functools
import io
import math
import os
import re
import signal
import sys
import time
from contextlib import nullcontext, redirect_stdout
from os.path import isdir, join

os.environ.setdefault("GOMP_SPINCOUNT", "1000")    # before torch: a thread that waits leaves its core

import torch
import torch.nn.functional as F
from huggingface_hub.utils import tqdm

from eval import evaluate, rehearse
from evaluation.card import write_card
from evaluation.folds import train_folds
from evaluation.predict import predict
from evaluation.printing import print_table
from evaluation.report import write_report
from evaluation.scores import chosen_metric, main_metric, validation_loss
from plumbing import parallel
from plumbing.command import Stop, run_main
from plumbing.device import copied, find_device, make_deterministic
from plumbing.flags import parse
from plumbing.look import look
from plumbing.lock import EVALUATION_LOCK, lock
from plumbing.models import inputs_of
from plumbing.prepare import add_features, prepare
from plumbing.run_folder import (
    forget_results, load_state, open_folder, random_numbers, save_model, write_log, write_split)
from plumbing.saved_run import open_model
from plumbing.start import print_start
from plumbing.tables import shortlist

# -----------------------------------------------------------------------------
# the loss


def model_loss(tasks, out, targets, present, counts):
    """Loss of the output, plus that of a first stage, its mean over the images that are present (MultiViT,
    section 3.1).

    out: what the model returned; targets {task: (B,) or (B, L)}; present (B, N): False for absent images,
    needed with a first stage; counts: known_counts of the whole batch, of which this may be a part: the
    losses of its parts add up to its loss, but for survival, see cox_loss."""
    loss = task_loss(tasks, out["logits"], targets, counts[0])
    if "stage1" in out:
        loss = loss + task_loss(tasks, out["stage1"], targets_per_image(targets, present), counts[1])
    return loss


def targets_per_image(targets, present):
    """{task: (B, ...)} -> {task: (B, N, ...)}: every image has its patient's target, an absent one NaN."""
    repeated = {}
    for name, target in targets.items():
        absent = ~present
        if target.dim() > 1:                                       # labels (B, L), or time and event (B, 2)
            absent = absent[:, :, None]
        repeated[name] = target[:, None].masked_fill(absent, float("nan"))
    return repeated


def known_counts(tasks, targets, present=None):
    """-> (2, tasks): how many targets are known, and how many where each counts once per image that is
    present (B, N)."""
    columns = []
    for task in tasks:
        target = targets[task.name]
        if task.kind == "survival":
            target = target[..., 0]
        known = (~target.isnan()).reshape(len(target), -1).sum(1)  # (B,)
        per_image = known if present is None else known * present.sum(1)
        columns.append(torch.stack([known.sum(), per_image.sum()]))
    return torch.stack(columns, 1)


def task_loss(tasks, logits, targets, counts):
    """Sum over the tasks of the mean over the known targets. logits {task: (..., outputs)}, targets {task:
    (...) or (..., L)}.

    regression: squared error in units of the training targets' standard deviation; classes: cross entropy;
    labels: binary cross entropy, mean over the labels; survival: cox_loss. An unknown target is NaN and does
    not count. counts (tasks,): how many targets are known."""
    total = 0.0
    for task, known_count in zip(tasks, counts.clamp(min=1)):
        y = logits[task.name].float()
        target = targets[task.name]
        if task.kind == "survival":                                # target (..., 2)
            survival_time, event = target.flatten(0, -2).unbind(1)
            total = total + cox_loss(y.flatten(), survival_time, event, known_count)
        else:
            losses = elementwise_loss(task, y, target.nan_to_num())
            total = total + (losses * ~target.isnan()).sum() / known_count
    return total


def elementwise_loss(task, y, target):
    """y (..., outputs), target without NaN -> the loss of every target, of the shape of target."""
    if task.kind == "loss":                                        # which the model has computed
        return y.squeeze(-1)
    if task.kind == "regression":
        return (y.squeeze(-1) - (target - task.center) / task.scale).square()
    if task.kind == "labels":
        weight = None
        if task.positive_weight:
            weight = on_device(task.positive_weight, y.device)
        return F.binary_cross_entropy_with_logits(y, target, reduction="none", pos_weight=weight)
    if torch.are_deterministic_algorithms_enabled():               # on CUDA only (n, C) has such a form
        return F.cross_entropy(y.flatten(0, -2), target.flatten().long(), reduction="none").view(target.shape)
    return F.cross_entropy(y.movedim(-1, 1), target.long(), reduction="none")


def cox_loss(risk, survival_time, event, known_count):
    """(n,) each -> - sum over events i of (risk_i - log sum over j with time_j >= time_i of exp risk_j) /
    known_count.

    Cox's partial likelihood with Breslow's ties, within what is computed at once: a batch or a part of it.
    0 without an event; a NaN time does not count."""
    known = ~survival_time.isnan()
    gone = (survival_time < survival_time[:, None]) | ~known       # (n, n): j is not at risk at the time of i
    gone = gone.fill_diagonal_(False)
    at_risk = risk.expand_as(gone).masked_fill(gone, -torch.inf).logsumexp(1)
    return ((at_risk - risk) * (event.nan_to_num() * known)).sum() / known_count


@functools.cache
def on_device(values, device):
    """A tuple as a tensor, copied to the device once: a copy in every step would wait for the GPU."""
    return torch.tensor(values, device=device)


# -----------------------------------------------------------------------------
# the learning rate, the optimizer, one step


def lr_at(step, steps, warmup, lr, lr_end):
    """Linear from lr / warmup to lr in `warmup` steps (2.5, say), then linear to lr_end at the last step."""
    if step + 1 <= warmup:
        return lr * (step + 1) / warmup
    return lr + (lr_end - lr) * max(0, step - warmup) / max(1, steps - 1 - warmup)


def make_optimizer(model, args, device):
    """AdamW or Adam. Weight decay on matrices only, not on biases, norms, tokens and positions."""
    matrices = []
    others = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            if parameter.ndim >= 2 and not re.search(r"token|pos_embed", name):
                matrices.append(parameter)
            else:
                others.append(parameter)
    groups = [{"params": matrices, "weight_decay": args.weight_decay},
              {"params": others, "weight_decay": 0.0}]
    return getattr(torch.optim, args.optimizer)(groups, lr=args.lr, fused=device.type in ("cuda", "cpu"))


def train_step(net, model, tasks, optimizer, batch, args, options, stop):
    """One step on this process's share of a batch, in --accumulate parts.

    -> [its summand of the batch's loss, norm of the gradient before clipping, processes told to stop], on
    the device: no number is read back, so that the CPU never waits for the GPU. net: the model, or its
    wrapper where several processes train."""
    device = options["device"]
    autocast = options["autocast"]
    inputs = copied(inputs_of(model, batch), device)
    targets = copied(batch["targets"], device)
    counts = known_counts(tasks, targets, inputs.get("present"))
    message = torch.cat([counts.flatten(), counts.new_full((1,), bool(stop))])
    message = parallel.add(message)                                # of all processes, exchanged only once
    counts = message[:-1].view_as(counts)
    stops = message[-1]
    size = math.ceil(len(batch["path"]) / args.accumulate)
    starts = range(0, len(batch["path"]), size)
    optimizer.zero_grad(set_to_none=True)
    loss = 0.0
    for start in starts:
        inputs_part = {name: tensor[start:start + size] for name, tensor in inputs.items()}
        targets_part = {name: target[start:start + size] for name, target in targets.items()}
        is_last = start == starts[-1]
        with nullcontext() if net is model or is_last else net.no_sync():  # one exchange of gradients
            with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                out = net(*inputs_part.values())
            part = model_loss(tasks, out, targets_part, inputs_part.get("present"), counts)
            (part * parallel.world()).backward()  # the processes average their gradients
        loss = loss + part.detach()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip or math.inf)  # the norm before
    optimizer.step()
    return torch.stack([loss, norm, stops.to(loss.dtype)])


class Pending:
    """What a step returned, on its way to the CPU. It is read one step later, so that the GPU never idles.

    place, paths: which step that was, and its images."""

    def __init__(self, result, place, paths):
        self.place = place
        self.paths = paths
        self.done = None
        on_cuda = result.device.type == "cuda"
        self.copy = result.to("cpu", non_blocking=on_cuda)
        if on_cuda:
            self.done = torch.cuda.current_stream().record_event()

    def check(self, run, bar):
        """Show the loss; -> was any process told to stop? ValueError if loss or gradient is not finite."""
        if self.done:
            self.done.synchronize()
        loss, norm, stops = self.copy.tolist()
        if not math.isfinite(loss) or not math.isfinite(norm):
            paths = sum(self.paths, [])
            raise ValueError(f"the loss is {loss} at {self.place}, the gradient's norm {norm}; the batch "
                             f"held {len(paths)} images, {shortlist(paths)}; what {run} holds is from before")
        bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        return stops > 0


# -----------------------------------------------------------------------------
# the loop


def fit(args, device):
    """The whole training, as the only process or one of several; -> what `finish` needs."""
    # the data, the model, the run folder
    torch.manual_seed(args.seed)
    if args.deterministic:
        make_deterministic()
    ready = prepare(args, device)
    model, tasks, options = ready.model, ready.tasks, ready.options
    select = chosen_metric(tasks, args.select)
    loader, batches, val_loader = ready.loader, ready.batches, ready.val_loader
    writes = parallel.rank() == 0                                  # only one process writes
    run, lock_file = open_folder(args) if writes else (None, None)
    run = parallel.collect(run)[0]
    print_start(run, args, ready, device)
    optimizer = make_optimizer(model, args, device)
    steps = len(batches)

    # where to start: at the beginning, or where the run was stopped
    state = {"epoch": 0, "step": 0, "best": None, "history": [], "loss": [], "norm": 0.0}
    parallel.own_numbers(args.seed)  # of dropout; the weights are the same in all processes
    if args.resume and isdir(join(run, "last")):
        state = load_state(run, model, optimizer, state, steps)
        print(f"resumed after epoch {state['epoch']}, step {state['step']}")
    add_features(args, model, ready.cohort, options)  # only now does a resumed model have its weights
    if writes:
        write_log(run, state["history"])  # a kill may have come between state.pt and log.csv
        write_split(run, ready.cohort, ready.indices)
        rehearse(ready, run)
    net = wrap(model, args, device)
    stop = Stop()
    bar = tqdm(total=args.epochs * steps, initial=state["epoch"] * steps + state["step"], desc="training",
               unit="step", disable=None if writes else True)

    for epoch in range(state["epoch"], args.epochs):
        # train
        model.train()
        total, largest = start_epoch(state, epoch, batches, device)
        began = time.perf_counter()
        pending = None
        loader.waited = val_loader.waited = 0.0
        for step, batch in enumerate(loader, batches.start):
            lr = lr_at(epoch * steps + step, args.epochs * steps, args.warmup * steps, args.lr, args.lr_end)
            for group in optimizer.param_groups:
                group["lr"] = lr
            result = train_step(net, model, tasks, optimizer, batch, args, options, stop)
            stopped = pending.check(run, bar) if pending else False     # by the step before
            pending = Pending(result, f"epoch {epoch + 1} step {step + 1}, lr {lr:.3g}", batch["path"])
            total, largest = total + result[0], torch.maximum(largest, result[1])
            bar.update()
            asked = stopped or bool(stop) and parallel.world() == 1
            if asked and step < steps - 1:                         # after the last step the epoch is over
                pending.check(run, bar)
                state.update(epoch=epoch, step=step + 1, norm=largest.item())
                save_last(run, model, optimizer, tasks, state, total)
                stop.leave(bar, run)
        pending.check(run, bar)
        loss = parallel.add(total).item() / steps

        # validate
        parallel.same_buffers(model)
        predictions = predict(model, tasks, val_loader, options)
        metric, value, lower_is_better = main_metric(tasks, predictions, select)
        seconds, waited = time.perf_counter() - began, loader.waited + val_loader.waited
        state["history"].append({
            "epoch": epoch + 1, "lr": lr, "train_loss": loss, "grad_norm": largest.item(),
            "val_loss": validation_loss(tasks, predictions), f"val_{metric}": value,
            "seconds": round(seconds, 2), "waited": round(waited, 2)})

        # keep the best, save, log
        better = is_better(value, state["best"], lower_is_better)
        if better:
            state["best"] = value
        undefined = state["best"] is None                          # then best/ is the last epoch
        if writes and (better or undefined):
            forget_results(run)
            save_model(join(run, "best"), model, tasks)
        state.update(epoch=epoch + 1, step=0, loss=[], norm=0.0)
        save_last(run, model, optimizer, tasks, state, torch.zeros_like(total))
        if writes:
            write_log(run, state["history"])
        best = " best" if better else ""
        if undefined:
            best = ", which cannot say which epoch is best: best/ is the latest"
        bar.write(f"epoch {epoch + 1:3}/{args.epochs}  train loss {loss:.4f}  "
                  f"val {metric} {value:.4f}{best}  {seconds:.1f} s, {waited / seconds:.0%} waiting")
        if any(parallel.collect(bool(stop))):
            stop.leave(bar, run)
    bar.close()
    stop.saved = run                                               # from now on a signal ends the process
    return run, lock_file, ready.cohort, ready.indices, options


def wrap(model, args, device):
    """-> the model as training calls it: compiled with --compile, shared where several processes train."""
    if args.compile:
        parts = args.grad_checkpointing or getattr(args, "chunk", None)
        torch._dynamo.config.optimize_ddp = not parts              # older PyTorch cannot have both
        # On CUDA kernels are launched as a graph, but its gradients are gone when it is launched again, for
        # the next part of a batch, and bags of each length would need their own.
        is_graph = not parts and args.accumulate == 1 and args.image != ""
        model.compile(mode="reduce-overhead" if is_graph else "default")
    return parallel.shared(model, device)


def start_epoch(state, epoch, batches, device):
    """Set the order of the batches, in the middle of an epoch where the run was stopped there; -> sum of the
    losses and largest norm of the gradient so far, on the device."""
    batches.epoch = epoch
    batches.start = state["step"]
    total = 0.0
    if len(state["loss"]) == parallel.world():                     # of a resumed run
        total = state["loss"][parallel.rank()]
    return torch.tensor(total, device=device), torch.tensor(state["norm"], device=device)


def is_better(value, best, lower_is_better):
    if best is None:                                               # NaN never is better
        return math.isfinite(value)
    return value < best if lower_is_better else value > best


def save_last(run, model, optimizer, tasks, state, loss):
    """Write last/, from all processes. loss: this process's sum over the epoch so far."""
    losses, generators = zip(*parallel.collect((loss.item(), random_numbers(loss.device))))
    if parallel.rank() == 0:
        everything = dict(state, loss=list(losses), random=list(generators), optimizer=optimizer.state_dict())
        save_model(join(run, "last"), model, tasks, everything)
    parallel.collect(None)                                         # nobody leaves before it is written


def finish(run, lock_file, cohort, indices, options):
    """Evaluate the test patients, once, with the best weights; then give the run's lock back."""
    best, tasks, _ = open_model(run)
    with lock(join(run, EVALUATION_LOCK), wait=True):
        result = evaluate(best.to(options["device"]), tasks, cohort, indices, run, options)
        write_card(run)
        write_report(run)
    print_table(tasks, result)                                     # whose reader may leave
    print(f"the whole run is in {run}: report.html to look at, metrics.json, predictions.csv, figures, best")
    lock_file.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)       # another fold may follow
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def main(argv=None):
    if argv is None:
        argv = sys.argv[1:]
    args = parse(argv)
    if args.fold == "all":
        train_folds(main, args, argv)
        return
    if args.check:
        if os.environ.get("RANK", "0") == "0":                     # one of torchrun's processes
            print("\n".join(look(args, argv)))
        return
    with parallel.together(find_device(args.device)) as device:
        with redirect_stdout(io.StringIO()) if parallel.rank() else nullcontext():     # one process prints
            trained = fit(args, device)
    finish(*trained)                                               # and goes on


if __name__ == "__main__":
    run_main(main)
