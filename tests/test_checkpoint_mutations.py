"""Seeded damage to a checkpoint: whatever a file holds, one of our errors comes out, soon and in little memory."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ast_hf import ASTDetector, CheckpointError, from_pretrained
from ast_hf.calibration import Calibration
from tests import tiny

MEMORY = 1 * 2**30  # bytes of address space above what the process has before the first load
ABSURD = (
    None, True, -1, 0, 1, 3, 7, 64, 4096, 8192, 10**6, 2**31, 2**63, 10**400, 1e308, -0.5, "", "x", "rgb", "depth",
    "\ud800", "a" * 10**5, "hf-hub:a/b", "resnet18", "vit_base_patch16_224", "blocks", "blocks.0", "../..", [], [3],
    [3] * 64, [2**40], {}, {"a": 1}, [[[]]],
)  # fmt: skip


def mutate(rng: random.Random, config: bytes, weights: bytes) -> tuple[bytes, bytes]:
    """A damaged config.json and model.safetensors; half of the configurations keep a valid seal in the weights."""
    kind = rng.randrange(6)
    if kind == 0:
        return flip(rng, config), weights
    if kind == 1:
        return config, flip(rng, weights)
    header = json.loads(weights[8 : 8 + struct.unpack("<Q", weights[:8])[0]])
    data = weights[8 + struct.unpack("<Q", weights[:8])[0] :]
    if kind in (2, 3):
        config = changed_config(rng, config) if kind == 2 else flip(rng, config)
        header["__metadata__"]["config.json.sha256"] = hashlib.sha256(config).hexdigest()
        return config, packed(header, data)
    if kind == 4:
        return config, packed(changed_header(rng, header), data)
    return config, packed(header, special_values(rng, data))


def flip(rng: random.Random, data: bytes) -> bytes:
    """A few bytes changed, cut out, doubled or put in; most of them at the start, where the structure is."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = min(int(rng.expovariate(1 / 400)) if rng.random() < 0.7 else rng.randrange(len(changed)), len(changed) - 1)
        match rng.randrange(5):
            case 0:
                changed[at] = rng.randrange(256)
            case 1:
                changed[at] ^= 1 << rng.randrange(8)
            case 2:
                del changed[at : at + rng.randint(1, 64)]
            case 3:
                changed[at:at] = changed[at : at + rng.randint(1, 64)] or b"0"
            case 4:
                del changed[max(at, 1) :]
        changed = changed or bytearray(b"\0")
    return bytes(changed)


def changed_config(rng: random.Random, config: bytes) -> bytes:
    values = json.loads(config)
    for name in rng.sample(sorted(values), rng.randint(1, 3)):
        match rng.randrange(5):
            case 0:
                del values[name]
            case 1:
                values[f"{name}{rng.randrange(3)}"] = values.pop(name)
            case 2 | 3 if isinstance(values[name], (int, float)):  # allowed, but another detector's, or a huge one's
                values[name] = rng.choice([1, 2, 8, 32, 64, 1024, 4096, 8192])
            case _:
                values[name] = rng.choice(ABSURD)
    return json.dumps(values).encode()


def changed_header(rng: random.Random, header: dict[str, Any]) -> dict[str, Any]:
    for name in rng.sample(sorted(set(header) - {"__metadata__"}), rng.randint(1, 3)):
        entry = header.pop(name)
        match rng.randrange(6):
            case 0:
                header[name + "x"] = entry
            case 1:
                header[name] = {**entry, "dtype": rng.choice(["F64", "F16", "I64", "BOOL", "F8_E4M3", "C64", "X"])}
            case 2:
                header[name] = {**entry, "shape": [rng.choice([0, 1, -1, 2**31, 2**62, 10**30]) for _ in range(3)]}
            case 3:
                header[name] = {**entry, "data_offsets": [rng.choice([0, -1, 10**6, 2**63]) for _ in range(2)]}
            case 4:
                header[name] = rng.choice(ABSURD)
            case 5:
                header["__metadata__"] = rng.choice([{}, {"a": 1}, {"backbone_sha256": "../" * 20}, None, []])
    return header


def special_values(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    special = struct.pack("<f", rng.choice([float("nan"), float("inf"), -float("inf"), 3e38]))
    at = 4 * rng.randrange(len(changed) // 4)
    changed[at : at + 4] = special
    return bytes(changed)


def packed(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def attack(folder: Path, first: int, count: int) -> dict[str, Any]:
    """Loads damaged checkpoints in this process; tells how many were refused, the slowest, and other errors."""
    import resource

    from ast_hf import ASTError

    config, weights = ((folder / name).read_bytes() for name in ("config.json", "model.safetensors"))
    from_pretrained(folder, device="cpu")
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    refused, slowest, bad = 0, 0.0, []
    for seed in range(first, first + count):
        damaged = mutate(random.Random(seed), config, weights)
        (folder / "config.json").write_bytes(damaged[0])
        (folder / "model.safetensors").write_bytes(damaged[1])
        start = time.process_time()
        try:
            from_pretrained(folder, device="cpu", local_files_only=True)
        except ASTError:
            refused += 1
        except BaseException as error:
            bad.append(f"{seed}: {error!r}"[:300])
        slowest = max(slowest, time.process_time() - start)
    return {"refused": refused, "slowest": slowest, "bad": bad}


def run(folder: Path, first: int, count: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = ASTDetector(tiny.config(feature_normalization="channel"))
    model.calibration = Calibration((0.1, 0.2), (1.0, 2.0))
    model.save_pretrained(folder)
    code = "import json, sys; from pathlib import Path; from tests.test_checkpoint_mutations import attack;"
    code += "print(json.dumps(attack(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))"
    command = [sys.executable, "-c", code, str(folder), str(first), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."})
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory limit needs Linux")
@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_only_our_errors_come_out(tmp_path: Path, count: int) -> None:
    found = run(tmp_path, 0, count)
    assert found["bad"] == []
    # What is left is damage without consequence, such as a weight that is another finite number.
    assert found["refused"] > 0.8 * count
    # A limit on the work, not on this machine: processor time, with room for a busy one.
    assert found["slowest"] < 1.0


def test_a_huge_configuration_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within all bounds, and sealed: its positional encoding would take 17 GB, its student 309 GB."""
    ASTDetector(tiny.config("depth")).save_pretrained(tmp_path)
    fields = {"depth_size": 4096, "depth_unshuffle": 2, "position_channels": 1024}
    huge = {**tiny.config("depth").to_dict(), **fields, "student_channels": 8192, "student_blocks": 64}
    config, weights = json.dumps(huge).encode(), (tmp_path / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", weights[:8])[0]
    header = json.loads(weights[8 : 8 + size])
    header["__metadata__"]["config.json.sha256"] = hashlib.sha256(config).hexdigest()
    (tmp_path / "config.json").write_bytes(config)
    (tmp_path / "model.safetensors").write_bytes(packed(header, weights[8 + size :]))
    computed: list[tuple[int, ...]] = []
    monkeypatch.setattr("ast_hf.model.positional_encoding", lambda *size: computed.append(size))
    with pytest.raises(CheckpointError, match=r"model\.safetensors lacks \d+ tensors"):
        from_pretrained(tmp_path)
    assert not computed
