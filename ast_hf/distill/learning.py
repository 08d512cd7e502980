"""The small trunk learns the features of a large one; a run that was stopped goes on where it was saved."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from ast_hf.checkpoint import write_whole
from ast_hf.distill.chunks import VALIDATION, Teacher, chunks, load_chunk, start_writing
from ast_hf.images import normalize
from ast_hf.tiny import CHANNELS, TinyTrunk

_LOG = logging.getLogger(__name__)
_FREEZE = 0.7  # of the steps
_MAX_GRADIENT = 1.0  # four times the usual norm
WEIGHTS, RECORD, STATE = "ast-tiny.safetensors", "distillation.json", "state.pt"


@dataclass(frozen=True)
class Learning:
    """How the small trunk is trained: AdamW on the squared error of standardised channels."""

    steps: int = 40_000
    batch_size: int = 16
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    chunks: int = 80
    save_every: int = 300  # seconds
    seed: int = 0


@dataclass
class _Run:
    network: TinyTrunk
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    mean: Tensor
    deviation: Tensor
    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


def distill(folder: Path, teacher: Teacher, learning: Learning, device: torch.device) -> Path:
    """Trains the trunk and gives the path of its weights (fp16); a better one replaces it at every saving.

    Args:
        folder: Takes pictures, state and result. A run that is there goes on; more steps than it had go on from it.
        teacher: Whose features to learn, on which pictures.
        learning: How.
        device: Where to.
    """
    writer = start_writing(folder / "pictures", teacher, learning.chunks, str(device))
    try:
        supply = chunks(folder / "pictures", learning.chunks, writer, np.random.default_rng())
        first = next(supply)
        run = _start(folder, learning, first[1].shape[1], device)
        batches = _batches(supply, learning.batch_size)
        started, saved, losses = time.monotonic() - run.seconds, time.monotonic(), []
        while run.step < learning.steps:
            losses.append(_learn(run, *next(batches), learning))
            run.step += 1
            if time.monotonic() - saved > learning.save_every or run.step == learning.steps:
                run.seconds = time.monotonic() - started
                _note(folder, run, float(torch.stack(losses).mean()))
                _save(folder, run, teacher, learning)
                saved, losses = time.monotonic(), []
    finally:
        writer.terminate()
    return folder / WEIGHTS


def _start(folder: Path, learning: Learning, channels: int, device: torch.device) -> _Run:
    torch.manual_seed(learning.seed)
    network = TinyTrunk(channels).to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(network, avg_fn=_average, use_buffers=True)
    # No decay on norms and biases, as is usual.
    decayed = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": learning.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning.learning_rate, fused=True)
    features = load_chunk(folder / "pictures", VALIDATION)[1].float().to(device)
    mean, deviation = features.mean((0, 2, 3)), features.std((0, 2, 3))
    run = _Run(network, average, optimizer, mean[:, None, None], deviation[:, None, None])
    if (folder / STATE).is_file():
        state = torch.load(folder / STATE, map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        run.step, run.seconds, run.curve = state["step"], state["seconds"], state["curve"]
        _LOG.info("Going on after step %d.", run.step)
    return run


def _average(average: Tensor, new: Tensor, count: int | Tensor) -> Tensor:
    """Over about the last tenth of the steps so far, at most a thousand."""
    return average + (new - average) / (1 + min(int(count) // 10, 1000))


def _batches(supply: Iterator[tuple[Tensor, Tensor]], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for pictures, features in supply:
        for rows in torch.randperm(len(pictures)).split(size):
            yield pictures[rows], features[rows]


def _learn(run: _Run, pictures: Tensor, features: Tensor, learning: Learning) -> Tensor:
    """One step; the learning rate rises for 300 steps and falls along a cosine.

    The last steps see batch norms as inference does, with fixed statistics: those of a batch hide a picture whose
    pattern a filter resonates with, and on which the network would give a hundred times too much.
    """
    progress = run.step / learning.steps
    rate = learning.learning_rate * min(1, (run.step + 1) / 300) * (0.5 + 0.5 * math.cos(math.pi * progress))
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.network.train(progress < _FREEZE)
    loss = _error(run.network, pictures, features, run)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(run.network.parameters(), _MAX_GRADIENT)
    run.optimizer.step()
    run.average.update_parameters(run.network)
    return loss.detach()


def _error(network: nn.Module, pictures: Tensor, features: Tensor, run: _Run) -> Tensor:
    """Mean squared error in units of each channel's variance: 1 is what the mean predicts."""
    device = run.mean.device
    wanted = (features.to(device).float() - run.mean) / run.deviation
    autocast = torch.autocast(device.type, torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()
    with autocast:
        given = network(normalize(pictures.to(device)).contiguous(memory_format=torch.channels_last))
    return F.mse_loss(given.float(), wanted)


@torch.no_grad()
def _note(folder: Path, run: _Run, loss: float) -> None:
    pictures, features = load_chunk(folder / "pictures", VALIDATION)
    run.average.eval()
    errors = [_error(run.average, p, f, run) for p, f in zip(pictures.split(32), features.split(32), strict=True)]
    validation = float(torch.stack(errors).mean())
    run.curve.append({"step": run.step, "seconds": round(run.seconds), "loss": loss, "validation": validation})
    _LOG.info("Step %d, %d s: error %.4f, on unseen pictures %.4f", run.step, run.seconds, loss, validation)


@torch.no_grad()
def principal_head(folder: Path, network: TinyTrunk, channels: int = CHANNELS) -> dict[str, Tensor]:
    """The head's weights that give the principal components of its output, each of variance 1.

    The teacher's channels repeat each other, and 1x1 convolutions of fewer channels before them repeat themselves for
    certain. A flow spends itself on such directions, in which the density has no bound, and what the student cannot
    follow there is noise in the anomaly map.
    """
    pictures, _ = load_chunk(folder / "pictures", VALIDATION)
    network.eval()
    device = next(network.parameters()).device
    rows = [network(normalize(batch.to(device))).permute(0, 2, 3, 1).flatten(0, 2) for batch in pictures.split(32)]
    outputs = torch.cat(rows).double()
    variances, directions = torch.linalg.eigh(torch.cov(outputs.T))
    principal = directions[:, -channels:].flip(1) / variances[-channels:].flip(0).clamp_min(1e-6).sqrt()
    head = {name: tensor.double() for name, tensor in network.get_submodule("head").state_dict().items()}
    return {
        "head.weight": torch.einsum("co,cikl->oikl", principal, head["weight"]).float(),
        "head.bias": (principal.T @ (head["bias"] - outputs.mean(0))).float(),
    }


def _save(folder: Path, run: _Run, teacher: Teacher, learning: Learning) -> None:
    state: dict[str, Any] = {
        "network": run.network.state_dict(), "average": run.average.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "step": run.step, "seconds": run.seconds, "curve": run.curve,
    }  # fmt: skip
    serialized = io.BytesIO()
    torch.save(state, serialized)
    write_whole(folder / STATE, serialized.getbuffer())
    average = cast(TinyTrunk, run.average.module)
    weights = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in (average.state_dict() | principal_head(folder, average)).items()
    }
    write_whole(folder / WEIGHTS, save({name: tensor.contiguous() for name, tensor in weights.items()}))
    settings = {"teacher": {**asdict(teacher), "weights": Path(teacher.weights).name}, "learning": asdict(learning)}
    record = {**settings, "torch": torch.__version__, "device": run.mean.device.type, "curve": run.curve}
    write_whole(folder / RECORD, (json.dumps(record, indent=1) + "\n").encode())
