"""What a training run will be, before it is paid for: plan.py -cn big-lama --cards 8xH100 [trainer=fast …]

plan.py --log RUN says when a run that is going on will end, and where the reference log was at its step.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from saicinpainting.cli import command
from saicinpainting.utils import InputError

ADAM_STATES = 2


@dataclass(frozen=True)
class Steps:
    """What a run does: `micro_batches` of `batch` images on each of `cards` make a step; steps: None without an end."""

    batch: int
    cards: int
    micro_batches: int
    epoch: int
    steps: int | None
    batch_line: str
    notes: tuple[str, ...] = ()

    @property
    def total_batch(self) -> int:
        return self.batch * self.cards * self.micro_batches


@command
def main() -> None:
    args = parse_arguments()
    if args.log is not None:
        from saicinpainting.training.log_reports import read_runs
        from saicinpainting.training.reference_log import beside_reference

        for line in (when_it_ends(args.log, time.time()), *beside_reference(read_runs(args.log)[0])):
            print(line)
        return
    if args.config is None or args.cards is None:
        raise InputError("name a config and the cards, as in -cn big-lama --cards 8xH100, or a run: --log RUN")
    cards, card = args.cards
    config = compose_config(args.config, args.overrides)
    steps = steps_of_run(config, cards, args.images or images_here(config))
    for line in describe(config, steps):
        print(line, flush=True)
    for line in cost_lines(args.config, args.overrides, config, steps, card):
        print(line)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-cn", "--config-name", dest="config", help="a config of configs/training")
    parser.add_argument("--cards", type=_cards, metavar="NxCARD", help="for example 8xH100, 1xV100")
    parser.add_argument("--images", type=int, help="training images; default: those in the config's folder")
    parser.add_argument("--log", type=Path, metavar="RUN", help="folder of a run that is going on")
    parser.add_argument("overrides", nargs="*", help="settings as for bin/train.py")
    return parser.parse_args()


def _cards(text: str) -> tuple[int, str]:
    found = re.fullmatch(r"([1-9]\d*)x(.+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected NxCARD such as 8xH100, got {text}")
    return int(found[1]), found[2]


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    from hydra import compose, initialize_config_dir

    from saicinpainting.config import CONFIGS, register_resolvers
    from saicinpainting.official_configs import read_group_headers

    register_resolvers()
    read_group_headers()
    with initialize_config_dir(str(CONFIGS / "training"), version_base="1.3"):
        return compose(name, list(overrides))


# ---- steps ---------------------------------------------------------------------------------------------------------


def images_here(config: DictConfig) -> int | None:
    """Images of an epoch in the config's folder; None where it is not on this machine."""
    from saicinpainting.config import resolved_sections
    from saicinpainting.training.run import make_data_module

    try:
        return make_data_module(resolved_sections(config, ["data", "location", "generator"])).epoch_images()
    except InputError:
        return None


def steps_of_run(config: DictConfig, cards: int, images: int | None) -> Steps:
    """The steps of a run on `cards` with so many images in an epoch; None: enough for `limit_train_batches`."""
    from saicinpainting.config import translate_trainer_kwargs
    from saicinpainting.data.sampler import count_batches
    from saicinpainting.training.micro_batches import choose_micro_batches, describe_batch
    from saicinpainting.training.summary import limited

    loader: Mapping[str, Any] = config.data.train.get("dataloader_kwargs") or {}
    batch = int(loader.get("batch_size", 1))
    own_kwargs: Any = OmegaConf.to_container(config.trainer.kwargs, resolve=True)
    total = OmegaConf.select(config, "data.total_batch_size")
    micro_batches = choose_micro_batches(own_kwargs, total=total, batch_size=batch, processes=cards)
    line = describe_batch(batch_size=batch, processes=cards, micro_batches=micro_batches, total=total, unit=" cards")
    notes: tuple[str, ...] = ()
    kwargs = translate_trainer_kwargs(own_kwargs)
    limit = kwargs.get("limit_train_batches")
    if images is not None:
        # As data.sampler and data.datamodule share them out.
        own = max(images // (cards * micro_batches), 1)
        epoch = limited(count_batches(own, batch, drop_last=bool(loader.get("drop_last"))), limit)
    elif isinstance(limit, int):
        epoch = limit
        needed = limit * batch * cards * micro_batches
        notes = (
            *notes,
            f"the data is not here: {needed:,} images or more are taken for given (--images says how many)",
        )
    else:
        raise InputError("--images: the data is not here, and limit_train_batches does not say how long an epoch is")
    ends = [kwargs.get("max_steps", -1), epoch * kwargs.get("max_epochs", -1) if kwargs.get("max_epochs") else None]
    steps = min((end for end in ends if end is not None and end >= 0), default=None)
    return Steps(batch, cards, micro_batches, epoch, steps, line, notes)


def describe(config: DictConfig, steps: Steps) -> Iterator[str]:
    yield f"batch: {steps.batch_line}"
    whole = "without an end (max_epochs, max_steps)"
    if steps.steps is not None:
        whole = f"{steps.steps:,} in all, {steps.steps * steps.total_batch:,} images"
    yield f"steps: {steps.epoch:,} an epoch, {whole}"
    yield from (f"note: {note}" for note in steps.notes)
    size = checkpoint_bytes(config) / 1e9
    kept = int(config.trainer.checkpoint_kwargs.get("save_top_k", 1)) + 1
    number = "one for each epoch" if kept <= 0 else str(kept)
    total = "" if kept <= 0 else f", {kept * size:.1f} GB"
    yield f"disk: {number} checkpoints of {size:.2f} GB{total}; logs, samples and the data come on top"


def checkpoint_bytes(config: DictConfig) -> int:
    """Of both networks, Adam's two moments of each weight and, if it is kept, the generator's average."""
    from saicinpainting.training.factory import make_training_model

    without = {"losses": {"resnet_pl": {"weight": 0}, "perceptual": {"weight": 0}}, "evaluator": None}
    quiet: Any = OmegaConf.merge(config, without, {"visualizer": {"kind": "noop"}})
    model = make_training_model(quiet)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    trained = [*model.generator.parameters(), *model.discriminator.parameters()]
    return weights + ADAM_STATES * sum(tensor.numel() * tensor.element_size() for tensor in trained)


# ---- time and memory -----------------------------------------------------------------------------------------------


def cost_lines(name: str, overrides: Sequence[str], config: DictConfig, steps: Steps, card: str) -> Iterator[str]:
    from saicinpainting.config import CONFIGS

    benchmarks = CONFIGS.parent / "benchmarks"
    size, precision = config.data.train.get("out_size", 256), str(config.trainer.kwargs.get("precision", 32))
    rate = measured_rate(benchmarks / "results" / "gpu", name, size, precision, steps.batch, card)
    if rate is not None:
        yield f"rate: {rate[0]:.1f} images a second on each card, measured: {rate[1]}"
        yield time_line(steps, steps.batch / rate[0])
        return
    if not (benchmarks / "step_cost.py").is_file():
        yield "time and memory: not known; benchmarks/step_cost.py of a checkout counts what a step costs"
        return
    row = counted_step(benchmarks / "step_cost.py", f"{name}:{steps.batch}:{precision}", size, overrides, card)
    shares = " and ".join(
        f"{row[part] / row['attainable_ms']:.0%} of its {of}"
        for part, of in (("arithmetic_ms", "arithmetic"), ("memory_ms", "bandwidth"))
    )
    yield (
        f"rate: {1000 * steps.batch / row['attainable_ms']:.1f} images a second on each card, an estimate: what a step "
        f"was counted to cost, for a {card} at {shares} by the data sheet; nothing was measured"
    )
    yield (
        f"memory: {row['peak_gigabytes']:.1f} GB of tensors on each card, counted; what the allocator and cuDNN hold "
        "besides comes on top"
    )
    yield time_line(steps, row["attainable_ms"] / 1000)


def measured_rate(
    results: Path, name: str, size: int, precision: str, batch: int, card: str
) -> tuple[float, str] | None:
    """Images a second of a card, of the batch next to `batch` that `make gpu` measured, and where that stands."""
    variant = "fast" if precision.startswith("bf16") else "default"
    found = []
    for file in sorted(results.glob("*/gpu.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        if card.lower() not in str(content["machine"].get("card", "")).lower():
            continue
        for row in (row for step in content["steps"] for row in step["rows"]):
            case = re.fullmatch(rf"{re.escape(name)} {size} px batch (\d+) cuda", str(row.get("case", "")))
            if case and row.get("variant") == variant and "images_per_second" in row:
                source = f"{file.parent.name}/{file.name}, {variant}, batch {case[1]}"
                found.append((abs(int(case[1]) - batch), float(row["images_per_second"]), source))
    return min(found)[1:] if found else None


def counted_step(script: Path, case: str, size: int, overrides: Sequence[str], card: str) -> dict[str, Any]:
    """The mean step as benchmarks/step_cost.py counts it."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows.json")
        arguments = ["--cases", case, "--size", str(size), "--card", card, "--variants", "default", "--json", str(rows)]
        more = ["--override", *overrides] if overrides else []
        print("counting what a step costs …", file=sys.stderr)
        done = subprocess.run([sys.executable, str(script), *arguments, *more], capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"benchmarks/step_cost.py: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
        row: dict[str, Any] = json.loads(rows.read_text(encoding="utf-8"))["rows"][-1]
        return row


def time_line(steps: Steps, seconds: float) -> str:
    """seconds: of a micro-batch."""
    needed = steps.batch * steps.cards / seconds
    line = f"{seconds * steps.micro_batches:.3f} s a step"
    if steps.steps is not None:
        whole = timedelta(seconds=round(steps.steps * steps.micro_batches * seconds))
        hours = whole.total_seconds() * steps.cards / 3600
        line = f"{whole} for {steps.steps:,} steps, {line}, {hours:,.0f} card-hours"
    return f"time: {line}; without validation and exchange between cards, if loaders give {needed:,.0f} images a second"


# ---- a run that is going on ----------------------------------------------------------------------------------------


def when_it_ends(run: Path, now: float) -> str:
    """By its log's number of steps and the pace of its newest start, validations included."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from saicinpainting.training.log_reports import event_files, logs_of

    texts = [file.read_text(encoding="utf-8", errors="replace") for file in sorted(run.glob("*.log"))]
    ends = re.findall(r"steps: [\d,]+ an epoch, ([\d,]+) in all", "\n".join(texts))
    if not ends:
        raise InputError(f"{run}: no *.log there that says how many steps the run has; name the folder of a run")
    total = int(ends[-1].replace(",", ""))
    board = EventAccumulator(str(max(event_files(logs_of(run)), key=lambda file: file.stat().st_mtime)))
    board.Reload()
    times = {s.step: s.wall_time for tag in board.Tags()["scalars"] for s in board.Scalars(tag) if tag != "hp_metric"}
    if len(times) < 2:
        raise InputError(f"{run}: its newest start has logged fewer than two steps; ask again later")
    first, last = min(times), max(times)
    pace = (times[last] - times[first]) / (last - first)
    done = f"{last + 1:,} of {total:,} steps, {pace:.3f} s a step since step {first + 1:,}"
    if last + 1 >= total:
        return f"{done}; it has ended"
    left = (total - last - 1) * pace
    if now < times[last] + max(600, 1000 * pace):
        return f"{done}; ends about {_date(times[last] + left)}, unless it is stopped"
    return f"{done}; nothing was logged since {_date(times[last])}; resumed now it ends about {_date(now + left)}"


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


if __name__ == "__main__":
    main()
