"""`app.py` whose lessons take seconds: what it teaches is a network made for tests."""

from __future__ import annotations

from functools import partial

import app
from ast_hf.demo import teach
from tests import tiny

if __name__ == "__main__":
    teach.Course = partial(teach.Course, tiny.config(), None)  # type: ignore[misc, assignment]
    app.main()
