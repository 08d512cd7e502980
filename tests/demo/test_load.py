"""Many visitors at once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from ast_hf import ASTDetector
from tests.app_server import running_app
from tests.demo.hostile_files import part

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
    for number in range(visitor * PICTURES, visitor * PICTURES + pictures):
        path = folder / f"{number}.png"
        cut_out(number).save(path)
        try:
            answers.append((number, client.predict(handle_file(path), "demo-carpet", 0.05, api_name="/predict")[0]))
        except AppError as error:
            assert "queue is full" in str(error).lower(), error
            answers.append((number, None))
    client.close()
    return answers


def test_fifty_visitors_with_ten_pictures_each(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
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
    sizes = {"MiB before": before // MIB, "MiB at the peak": peak // MIB, "MiB after": after // MIB}
    record_property("load", {"answered": len(answered), **sizes})
    assert len(answered) >= CLIENTS
    for number, values in answered.items():
        assert (values["width"], values["height"]) == cut_out(number).size
    for number in sorted(answered)[::PICTURES]:
        assert answered[number]["score"] == pytest.approx(model.predict(cut_out(number)).score, rel=1e-3)
    assert peak - before < 384 * MIB
    assert after - before < 192 * MIB
