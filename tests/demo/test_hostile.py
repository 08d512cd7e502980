"""What strangers send: a right answer or a sentence, nothing of the machine in it, and the page goes on.

With AST_HF_HOSTILE_TABLE=FILE a table of what each thing got is written to that file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file

from ast_hf import ASTDetector
from tests.app_server import AppServer, running_app
from tests.demo.hostile_files import ESCAPED, HostileFile, HostileZip, archives, encoded, part, pictures, point_cloud
from tests.demo.raw_api import Answer, RawApi

DETECTOR, RATE = "demo-carpet", 0.05
# Anything that looks like a place on a disk, a Python file or its line, or an object's address.
TELLTALE = re.compile(r"(?<![\w:/.])/\w[\w.-]*/|\w\.py\b|Traceback|line \d+|0x[0-9a-f]{6}|[A-Z]:\\", re.ASCII)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """A server in whose working directory a picture lies; afterwards it has written to its temporary folder alone."""
    with running_app(tmp_path_factory.mktemp("served")) as app:
        (app.working / "secret.png").write_bytes(encoded(part()))
        before = app.files()
        yield app
        check_still_right(RawApi(app.url))
        # Matplotlib notes which fonts there are.
        new = {path for path in app.files() - before if "matplotlib" not in path.parts}
        assert {path for path in new if app.temporary not in path.parents} == set()
        assert not [path for path in new if path.name == ESCAPED]
        assert not Path("/", ESCAPED).exists()


@pytest.fixture(scope="module")
def api(server: AppServer) -> RawApi:
    return RawApi(server.url)


@pytest.fixture(scope="module")
def model() -> ASTDetector:
    """The detector that the server answers with."""
    return ASTDetector.from_pretrained(DETECTOR, device="cpu")


@pytest.fixture(scope="module")
def table() -> Iterator[dict[str, str]]:
    """What was sent, and what it got."""
    rows: dict[str, str] = {}
    yield rows
    if target := os.environ.get("AST_HF_HOSTILE_TABLE"):
        lines = [f"| {kind} | {' '.join(got.split())} |" for kind, got in rows.items()]
        Path(target).write_text("\n".join(["| sent | answer |", "|---|---|", *lines, ""]))


def predict(api: RawApi, picture: Any, detector: Any = DETECTOR, rate: Any = RATE) -> Answer:
    return api.call("predict", picture, detector, rate)


def check_still_right(api: RawApi) -> None:
    """The next visitor gets an answer."""
    answer = predict(api, api.upload("good.png", encoded(part())))
    assert answer.data is not None, answer.message
    assert (answer.data[0]["width"], answer.data[0]["height"]) == part().size


@pytest.fixture(autouse=True)
def goes_on(api: RawApi) -> Iterator[None]:
    """After each test the page answers; that its answers are right is seen at the end."""
    yield
    assert DETECTOR in api.call("models").data[0]["picture"]


def check_refusal(answer: Answer, *, in_words: bool = True) -> str:
    """A refusal tells nothing of the machine, and says what is wrong where the visitor can mend it."""
    assert answer.data is None
    assert not TELLTALE.search(answer.message), answer.message
    assert not in_words or len(answer.message.split()) > 4, answer.message
    return answer.message or "refused without a word"


@pytest.mark.parametrize("file", list(pictures()), ids=lambda file: file.kind)
def test_pictures(
    api: RawApi,
    model: ASTDetector,
    table: dict[str, str],
    tmp_path: Path,
    file: HostileFile,
    machine_arithmetic: None,
) -> None:
    data = file.make()
    answer = predict(api, api.upload(file.name, data))
    if not file.answered:
        table[file.kind] = check_refusal(answer)
    else:
        assert answer.data is not None, answer.message
        path = tmp_path / file.name
        path.write_bytes(data)
        values, expected = answer.data[0], model.predict(path)
        assert values["score"] == pytest.approx(expected.score, rel=1e-3)
        assert (values["width"], values["height"]) == expected.image.size
        table[file.kind] = f"answered: score {values['score']:.3f}, {values['width']} x {values['height']}"


@pytest.mark.parametrize("archive", list(archives()), ids=lambda archive: archive.kind)
def test_archives(api: RawApi, table: dict[str, str], archive: HostileZip) -> None:
    answer = api.call("batch", [api.upload("parts.zip", archive.make())], DETECTOR, RATE)
    if answer.data is None:
        assert not archive.answered
        table[archive.kind] = check_refusal(answer)
    else:
        rows = answer.data[0]
        assert [("score" in row) for row in rows].count(True) == archive.answered
        faults = [check_refusal(Answer(200, message=row["error"])) for row in rows if "error" in row]
        table[archive.kind] = f"{archive.answered} answered" + "".join(f"; {fault}" for fault in faults)


def test_a_point_cloud_that_is_none(api: RawApi, table: dict[str, str]) -> None:
    picture = api.upload("good.png", encoded(part()))
    for kind, name, data in (
        ("picture in the box for a scan", "scan.tiff", encoded(part(), "TIFF")),
        ("text in the box for a scan", "scan.tiff", b"II*\0 is how a TIFF begins"),
        ("scan of another size than the picture", "scan.tiff", point_cloud()[: 2**19]),
    ):
        table[kind] = check_refusal(api.call("predict_3d", picture, api.upload(name, data), "demo-tire", RATE))


MARK = {"meta": {"_type": "gradio.FileData"}}
# PATH is put for the path of a picture on the server that nobody uploaded.
FORGED = {
    "a path of the server": {"path": "PATH", **MARK},
    "a path without gradio's mark": {"path": "PATH"},
    "a path with an empty mark": {"path": "PATH", "meta": {}},
    "a path with another mark": {"path": "PATH", "meta": {"_type": "file"}},
    "a path relative to the working directory": {"path": "secret.png", **MARK},
    "a relative path without gradio's mark": {"path": "secret.png"},
    "a path as text": "PATH",
    "a path with a friendly URL": {"path": "PATH", "url": "https://huggingface.co/logo.png", **MARK},
    "a path as a URL": {"path": "a.png", "url": "file://PATH", **MARK},
    "a URL as a path": {"path": "file://PATH", **MARK},
    "address of localhost": {"path": "http://127.0.0.1:9/a.png", **MARK},
    "address of localhost by name": {"path": "http://localhost:9/a.png", **MARK},
    "address of a cloud's metadata": {"path": "http://169.254.169.254/latest/meta-data", **MARK},
    "address of localhost as a URL": {"path": "a.png", "url": "http://127.0.0.1:9/a.png", **MARK},
    "address of localhost without gradio's mark": {"path": "http://127.0.0.1:9/a.png"},
    "picture as base64": {"url": "data:image/png;base64,iVBORw0KGgo=", **MARK},
    "no picture": None,
    "a number for a picture": 7,
    "a list for a picture": [[0, 1], [1, 0]],
}


@pytest.mark.parametrize("kind", FORGED)
def test_forged_files(server: AppServer, api: RawApi, table: dict[str, str], kind: str) -> None:
    """Nothing is opened but what was uploaded: in whichever box, a picture on the server gets no answer."""
    path = server.working / "secret.png"
    forged = json.loads(json.dumps(FORGED[kind]).replace("PATH", str(path)))
    answer = predict(api, forged)
    table[kind] = check_refusal(answer, in_words=forged is None)
    assert path.name not in answer.message  # else it was opened
    for other in (
        api.call("predict_3d", forged, None, "demo-tire", RATE),
        api.call("predict_3d", api.upload("good.png", encoded(part())), forged or 7, "demo-tire", RATE),
        api.call("batch", [forged], DETECTOR, RATE),
        api.call("teach", [forged] * 16),
    ):
        check_refusal(other, in_words=False)
        assert path.name not in other.message


@pytest.mark.parametrize(
    "name",
    ["../../etc", "/etc", "nobody/nothing", "demo-carpet/../demo-carpet", "Your own detector", "", None, 7, ["x"]],
)
def test_wrong_detectors(api: RawApi, table: dict[str, str], name: Any) -> None:
    message = check_refusal(predict(api, api.upload("good.png", encoded(part())), name))
    table[f"detector {name!r}"] = message


@pytest.mark.parametrize("rate", [-1, 0, 1, 2, 1e999, "x", None])
def test_wrong_rates(api: RawApi, table: dict[str, str], rate: Any) -> None:
    if rate == 1e999:
        rate = "Infinity"
    answer = predict(api, api.upload("good.png", encoded(part())), DETECTOR, rate)
    table[f"false-positive rate {rate!r}"] = check_refusal(answer, in_words=False)


def test_an_upload_that_is_too_large(server: AppServer, api: RawApi, table: dict[str, str]) -> None:
    before = server.files()
    reply = api.http.post("/upload", files={"files": ("large.png", bytes(80 * 2**20))})
    assert reply.status_code == 413
    assert not TELLTALE.search(reply.text)
    assert sum(path.stat().st_size for path in server.files() - before) < 2**20
    table["upload of 80 MiB"] = f"HTTP 413: {reply.text}"


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
    name = "<script>alert(1)</script>.png"
    answer = predict(api, api.upload(name, b"not a picture"))
    assert "<script" not in answer.message


def test_the_client_gets_the_sentences_too(server: AppServer, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    client = Client(server.url, verbose=False)
    try:
        with pytest.raises(Exception, match=r"text\.png: this is not a picture that is read"):
            client.predict(handle_file(tmp_path / "text.png"), DETECTOR, RATE, api_name="/predict")
    finally:
        client.close()
