"""Small detectors in a store of their own, and one server for all that goes over the network."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ast_hf.hub import store
from tests import tiny
from tests.app_server import AppServer, running_app
from tests.demo.hostile_files import ESCAPED, encoded, part


@pytest.fixture
def stored() -> None:
    """The test's store holds "plate", which takes pictures, and "box", which takes pictures and scans."""
    store(tiny.detector("rgb"), "plate")
    store(tiny.detector("rgb+depth"), "box")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """A server in whose working directory a picture lies; in the end it has written to its temporary folder alone."""
    with running_app(tmp_path_factory.mktemp("served"), Path(__file__).with_name("quick_app.py")) as app:
        (app.working / "secret.png").write_bytes(encoded(part()))
        before = app.files()
        yield app
        new = app.files() - before
        # Matplotlib notes which fonts there are.
        assert not [path for path in new if app.temporary not in path.parents and "matplotlib" not in path.parts]
        assert not [path for path in new if path.name == ESCAPED] and not Path("/", ESCAPED).exists()
