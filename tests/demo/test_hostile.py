"""What strangers send: a right answer or a sentence, nothing of the machine in it, and the page goes on."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ast_hf import ASTDetector
from tests.app_server import AppServer
from tests.demo.hostile_files import archives, encoded, part, pictures, point_cloud
from tests.demo.raw_api import Answer, RawApi

DETECTOR, RATE = "demo-carpet", 0.05
# Anything that looks like a place on a disk, a Python file or its line, or an object's address.
TELLTALE = re.compile(r"(?<![\w:/.])/\w[\w.-]*/|\w\.py\b|Traceback|line \d+|0x[0-9a-f]{6}|[A-Z]:\\", re.ASCII)


@pytest.fixture(scope="module")
def api(server: AppServer) -> RawApi:
    return RawApi(server.url)


@pytest.fixture(scope="module")
def model() -> ASTDetector:
    """The detector that the server answers with."""
    return ASTDetector.from_pretrained(DETECTOR, device="cpu")


@pytest.fixture(autouse=True)
def goes_on(api: RawApi) -> Iterator[None]:
    """After each test the page answers."""
    yield
    assert DETECTOR in api.call("models").data[0]["picture"]


def predict(api: RawApi, picture: Any, detector: Any = DETECTOR, rate: Any = RATE) -> Answer:
    return api.call("predict", picture, detector, rate)


def check_refusal(answer: Answer, *, in_words: bool = True) -> None:
    """A refusal tells nothing of the machine, and says what is wrong where the visitor can mend it."""
    assert answer.data is None
    assert not TELLTALE.search(answer.message), answer.message
    assert not in_words or len(answer.message.split()) > 4, answer.message


@pytest.mark.parametrize(("name", "make", "answered"), list(pictures()))
def test_pictures(
    api: RawApi, model: ASTDetector, tmp_path: Path, name: str, make: Callable[[], bytes], answered: bool
) -> None:
    answer = predict(api, api.upload(name, make()))
    if not answered:
        return check_refusal(answer)
    assert answer.data is not None, answer.message
    (tmp_path / name).write_bytes(make())
    values, expected = answer.data[0], model.predict(tmp_path / name)
    assert values["score"] == pytest.approx(expected.score, rel=1e-3)
    assert (values["width"], values["height"]) == expected.image.size


@pytest.mark.parametrize(("kind", "make", "answered"), list(archives()))
def test_archives(api: RawApi, kind: str, make: Callable[[], bytes], answered: int) -> None:
    answer = api.call("batch", [api.upload("parts.zip", make())], DETECTOR, RATE)
    if answer.data is None:
        assert not answered
        return check_refusal(answer)
    rows = answer.data[0]
    assert [("score" in row) for row in rows].count(True) == answered
    for row in rows:
        if "error" in row:
            check_refusal(Answer(message=row["error"]))


def test_no_picture(api: RawApi) -> None:
    check_refusal(predict(api, None))


def test_point_clouds_that_are_none(api: RawApi) -> None:
    picture = api.upload("good.png", encoded(part()))
    for data in (encoded(part(), "TIFF"), b"II*\0 is how a TIFF begins", point_cloud()[: 2**19]):
        check_refusal(api.call("predict_3d", picture, api.upload("scan.tiff", data), "demo-tire", RATE))


MARK = {"meta": {"_type": "gradio.FileData"}}
# PATH is put for the path of a picture on the server that nobody uploaded.
FORGED = {
    "a path of the server": {"path": "PATH", **MARK},
    "a path without gradio's mark": {"path": "PATH"},
    "a path with an empty mark": {"path": "PATH", "meta": {}},
    "a path with another mark": {"path": "PATH", "meta": {"_type": "file"}},
    "a path relative to the working directory": {"path": "secret.png", **MARK},
    "a path as text": "PATH",
    "a path with a friendly URL": {"path": "PATH", "url": "https://huggingface.co/logo.png", **MARK},
    "a path as a URL": {"path": "a.png", "url": "file://PATH", **MARK},
    "a URL as a path": {"path": "file://PATH", **MARK},
    "address of localhost": {"path": "http://127.0.0.1:9/a.png", **MARK},
    "address of a cloud's metadata": {"path": "http://169.254.169.254/latest/meta-data", **MARK},
    "address of localhost as a URL": {"path": "a.png", "url": "http://127.0.0.1:9/a.png", **MARK},
    "address of localhost without gradio's mark": {"path": "http://127.0.0.1:9/a.png"},
    "picture as base64": {"url": "data:image/png;base64,iVBORw0KGgo=", **MARK},
    "a number for a picture": 7,
    "a list for a picture": [[0, 1], [1, 0]],
}


@pytest.mark.parametrize("kind", FORGED)
def test_forged_files(server: AppServer, api: RawApi, kind: str) -> None:
    """Nothing is opened but what was uploaded: in whichever box, a picture on the server gets no answer."""
    path = server.working / "secret.png"
    forged = json.loads(json.dumps(FORGED[kind]).replace("PATH", str(path)))
    for answer in (
        predict(api, forged),
        api.call("predict_3d", forged, None, "demo-tire", RATE),
        api.call("predict_3d", api.upload("good.png", encoded(part())), forged or 7, "demo-tire", RATE),
        api.call("batch", [forged], DETECTOR, RATE),
        api.call("teach", [forged] * 16, None),
    ):
        check_refusal(answer, in_words=False)
        assert path.name not in answer.message  # else it was opened


WRONG_NAMES = (
    "../../etc",
    "/etc",
    "nobody/nothing",
    "demo-carpet/../demo-carpet",
    "Your own detector",
    "",
    None,
    7,
    ["x"],
)
WRONG_RATES = (-1, 0, 1, 2, "Infinity", "NaN", "x", [0.05], None)


@pytest.mark.parametrize(
    ("detector", "rate"), [*((name, RATE) for name in WRONG_NAMES), *((DETECTOR, rate) for rate in WRONG_RATES)]
)
def test_wrong_detectors_and_rates(api: RawApi, detector: Any, rate: Any) -> None:
    answer = predict(api, api.upload("good.png", encoded(part())), detector, rate)
    check_refusal(answer)


def test_a_number_may_come_as_text(api: RawApi) -> None:
    assert predict(api, api.upload("good.png", encoded(part())), rate="0.2").data[0]["false_positive_rate"] == 0.2


def test_an_upload_that_is_too_large(server: AppServer, api: RawApi) -> None:
    before = server.files()
    reply = api.http.post("/upload", files={"files": ("large.png", bytes(80 * 2**20))})
    assert reply.status_code == 413
    assert not TELLTALE.search(reply.text)
    assert sum(path.stat().st_size for path in server.files() - before) < 2**20


@pytest.mark.parametrize(
    "path",
    [
        "/file=/etc/passwd", "/file=../../etc/passwd", "/file=secret.png", "/file=%2Fetc%2Fpasswd",
        "/file=http://127.0.0.1:22/", "/proxy=http://127.0.0.1:22/", "/vibe-code", "/run-history/records",
        "/../monitoring", "/../monitoring/summary", "/../static/../../app.py", "/profiling/traces",
    ],
)  # fmt: skip
def test_addresses_that_are_not_for_visitors(server: AppServer, api: RawApi, path: str) -> None:
    reply = api.http.get(path)
    assert reply.status_code in (400, 401, 403, 404), reply.text[:200]
    assert str(server.folder) not in reply.text


def test_files_of_the_server_are_not_served(server: AppServer, api: RawApi) -> None:
    own = api.upload("mine.png", encoded(part()))["path"]
    assert api.http.get(f"/file={own}").status_code == 200
    config = next(server.home.rglob("config.json"), Path(__file__))
    for path in (server.working / "secret.png", server.log, config, Path(own).parent, server.temporary):
        assert api.http.get(f"/file={path}").status_code == 403


def test_markup_in_names_stays_text(api: RawApi) -> None:
    answer = predict(api, api.upload("<script>alert(1)</script>.png", b"not a picture"))
    assert "<script" not in answer.message
