"""Seeded damage to a checkpoint: whatever a file holds, one of our errors comes out, soon and in little memory."""

import hashlib
import json
import random
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ast_hf import ASTError, CheckpointError, from_pretrained
from tests import tiny

MEMORY = 1 * 2**30  # bytes of address space above what the process has before the first load
ABSURD = (
    None, True, -1, 0, 1, 2, 3, 7, 8, 32, 64, 1024, 4096, 8192, 10**6, 2**31, 2**63, 10**400, 1e308, -0.5, "", "x",
    "rgb", "depth", "\ud800", "a" * 10**5, "hf-hub:a/b", "resnet18", "vit_base_patch16_224", "blocks.0", "../..", "F64",
    "F16", "I64", "BOOL", "F8_E4M3", [], [0], [3], [3] * 64, [-1, 2**31], [2**62, 1, 10**30], [0, 10**6], [[[]]],
    {}, {"a": 1}, {"backbone_sha256": "../" * 20},
)  # fmt: skip


def mutate(rng: random.Random, config: bytes, weights: bytes) -> tuple[bytes, bytes]:
    """A damaged config.json and model.safetensors; a third of them keep a valid seal in the weights."""
    (header, data), kind = unpacked(weights), rng.randrange(6)
    if kind < 2:
        return (flipped(rng, config), weights) if kind else (config, flipped(rng, weights))
    if kind < 4:
        config = flipped(rng, config) if kind == 2 else json.dumps(changed(rng, json.loads(config))).encode()
        return config, packed(header, data, config)
    if kind == 4:
        changed(rng, rng.choice([header, *header.values()]))
        return config, packed(header, data)
    at, special = 4 * rng.randrange(len(data) // 4), rng.choice([float("nan"), float("inf"), -float("inf"), 3e38])
    return config, packed(header, data[:at] + struct.pack("<f", special) + data[at + 4 :])


def flipped(rng: random.Random, data: bytes) -> bytes:
    """A few bytes changed, cut out, doubled or put in; most of them at the start, where the structure is."""
    for _ in range(rng.randint(1, 4)):
        at = min(int(rng.expovariate(1 / 400)) if rng.random() < 0.7 else rng.randrange(len(data)), len(data) - 1)
        piece, bit = data[at : at + rng.randint(1, 64)], bytes([data[at] ^ 1 << rng.randrange(8)])
        ends = [
            bit + data[at + 1 :],
            rng.randbytes(1) + data[at + 1 :],
            data[at + len(piece) :],
            piece + data[at:],
            b"",
        ]
        data = data[:at] + rng.choice(ends) or b"\0"
    return data


def changed(rng: random.Random, fields: dict[str, Any]) -> dict[str, Any]:
    """The same JSON object, in which one to three fields are now missing, renamed or absurd."""
    for name in rng.sample(sorted(fields), rng.randint(1, min(3, len(fields)))):
        value, kind = fields.pop(name), rng.randrange(5)
        if kind:  # or it is missing
            fields[f"{name}1" if kind == 1 else name] = value if kind == 1 else rng.choice(ABSURD)
    return fields


def unpacked(weights: bytes) -> tuple[dict[str, Any], bytes]:
    size = 8 + struct.unpack("<Q", weights[:8])[0]
    return json.loads(weights[8:size]), weights[size:]


def packed(header: dict[str, Any], data: bytes, config: bytes | None = None) -> bytes:
    """A safetensors file, sealed with a configuration where one is given."""
    if config is not None:
        header["__metadata__"]["config.json.sha256"] = hashlib.sha256(config).hexdigest()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def attack(folder: Path, count: int) -> dict[str, Any]:
    """Loads damaged checkpoints in this process; tells how many were refused, the slowest, and other errors."""
    files = [folder / "config.json", folder / "model.safetensors"]
    whole, refused, slowest, bad = [file.read_bytes() for file in files], 0, 0.0, []
    from_pretrained(folder, device="cpu")
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    for seed in range(count):
        for file, data in zip(files, mutate(random.Random(seed), *whole), strict=True):
            file.write_bytes(data)
        start = time.process_time()
        try:
            from_pretrained(folder, device="cpu", local_files_only=True)
        except ASTError:
            refused += 1
        except BaseException as error:
            bad.append(f"{seed}: {error!r}"[:300])
        slowest = max(slowest, time.process_time() - start)
    return {"refused": refused, "slowest": slowest, "bad": bad}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory limit needs Linux")
@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_only_our_errors_come_out(tmp_path: Path, count: int) -> None:
    tiny.detector(feature_normalization="channel").save_pretrained(tmp_path)
    code = "import json, sys; from pathlib import Path; from tests.hub.test_mutations import attack;"
    code += "print(json.dumps(attack(Path(sys.argv[1]), int(sys.argv[2]))))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(count)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["bad"] == []
    # What is left is damage without consequence, such as a weight that is another finite number.
    assert found["refused"] > 0.8 * count
    # A limit on the work, not on this machine: processor time, with room for a busy one.
    assert found["slowest"] < 1.0


def test_a_huge_configuration_costs_nothing(tmp_path: Path) -> None:
    """Within all bounds, and sealed: its positional encoding would take 17 GB, its student 309 GB."""
    tiny.detector("depth").save_pretrained(tmp_path)
    fields = {"depth_size": 4096, "depth_unshuffle": 2, "position_channels": 1024, "student_blocks": 64}
    config = json.dumps({**tiny.config("depth").to_dict(), **fields, "student_channels": 8192}).encode()
    weights, start = tmp_path / "model.safetensors", time.process_time()
    (tmp_path / "config.json").write_bytes(config)
    weights.write_bytes(packed(*unpacked(weights.read_bytes()), config))
    with pytest.raises(CheckpointError, match=r"model\.safetensors lacks \d+ tensors"):
        from_pretrained(tmp_path)
    assert time.process_time() - start < 2
