"""Many visitors at once, and a machine that fails in the middle of teaching."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from ast_hf import ASTDetector
from benchmark.synthetic import draw_part
from tests.app_server import AppServer, running_app
from tests.demo.hostile_files import encoded, part, zipped
from tests.demo.raw_api import RawApi

pytestmark = pytest.mark.slow

CLIENTS, PICTURES = 50, 10
MIB = 2**20


def cut_out(number: int) -> Image.Image:
    """One of many pictures, each of another size, by which its answer can be told."""
    return part().crop((0, 0, 200 + number % 100, 200 + number // 100))


def visit(url: str, folder: Path, visitor: int, pictures: int = PICTURES) -> list[tuple[int, dict | None]]:
    """One visitor's pictures, one after another: their numbers, and the answers, None where the queue was full."""
    client = Client(url, verbose=False, download_files=False)
    answers: list[tuple[int, dict | None]] = []
    try:
        for number in range(visitor * PICTURES, visitor * PICTURES + pictures):
            path = folder / f"{number}.png"
            cut_out(number).save(path)
            try:
                values, *_ = client.predict(handle_file(path), "demo-carpet", 0.05, api_name="/predict")
                answers.append((number, values))
            except AppError as error:
                assert "queue is full" in str(error).lower(), error
                answers.append((number, None))
    finally:
        client.close()
    return answers


def test_fifty_visitors_with_ten_pictures_each(
    tmp_path: Path, record_property: Callable[[str, object], None], machine_arithmetic: None
) -> None:
    model = ASTDetector.from_pretrained("demo-carpet", device="cpu")
    with running_app(tmp_path / "served") as server:
        with ThreadPoolExecutor(CLIENTS) as visitors:
            # Memory is compared once all threads have their own: the first round of visitors takes some for good.
            list(visitors.map(lambda visitor: visit(server.url, tmp_path, visitor, 2), range(CLIENTS)))
            before = server.memory()
            rounds = list(visitors.map(lambda visitor: visit(server.url, tmp_path, visitor), range(CLIENTS)))
        peak, after = server.memory("VmHWM"), server.memory()
        assert server.is_alive()
    answers = [answer for visitor in rounds for answer in visitor]
    assert [number for number, _ in answers] == list(range(CLIENTS * PICTURES))
    answered = {number: values for number, values in answers if values is not None}
    report = {"answered": len(answered), "told that the queue is full": len(answers) - len(answered)}
    report |= {"MiB before": before // MIB, "MiB at the peak": peak // MIB, "MiB after": after // MIB}
    record_property("load", report)
    print(report)
    assert len(answered) >= CLIENTS
    for number, values in answered.items():
        assert (values["width"], values["height"]) == cut_out(number).size
    for number in sorted(answered)[::PICTURES]:
        assert answered[number]["score"] == pytest.approx(model.predict(cut_out(number)).score, rel=1e-3)
    assert peak - before < 384 * MIB
    assert after - before < 192 * MIB


def test_a_server_killed_while_it_teaches_leaves_nothing_half_made(tmp_path: Path) -> None:
    good = zipped({f"{i}.png": encoded(Image.fromarray(draw_part("carpet", i).rgb)) for i in range(20)})
    with running_app(tmp_path) as server:
        home = home_files(server)
        api = RawApi(server.url)
        api.http.post("/call/teach", json={"data": [[api.upload("good.zip", good)]]}).raise_for_status()
        wait_until_busy(server)
        server.stop()
        check_whole(server)
        server.start()
        check_whole(server)
        assert home_files(server) == home
        answer = api.call("predict", api.upload("good.png", encoded(part())), "demo-carpet", 0.05)
        assert answer.data is not None, answer.message


def home_files(server: AppServer) -> set[Path]:
    return {path for path in server.files() if server.home in path.parents and "matplotlib" not in path.parts}


def wait_until_busy(server: AppServer) -> None:
    """Until the first features of the lesson lie in their temporary folder."""
    until = time.monotonic() + 120
    while not list(server.temporary.glob("ast-hf-*/**/*")):
        assert time.monotonic() < until, server.log.read_text()
        time.sleep(0.02)


def check_whole(server: AppServer) -> None:
    """No checkpoint is there but those that load."""
    for weights in server.folder.rglob("model.safetensors*"):
        assert weights.name == "model.safetensors"
        ASTDetector.from_pretrained(weights.parent, device="cpu")
    assert not [path for path in server.files() if path.suffix == ".zip" and "ast-detector" in path.name]
    assert os.listdir(server.working) == []
