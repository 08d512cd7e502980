"""`app.py` that trains within seconds: what it trains is a network made for tests."""

from functools import partial

import app
from ast_hf.demo.training import TeachSettings
from tests import tiny

if __name__ == "__main__":
    app.create_demo = partial(app.create_demo, settings=TeachSettings(tiny.config(local_channels=(8, 8)), None))
    app.main()
