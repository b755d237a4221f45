import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

DATA = Path(os.environ.get("ANYSTROKE_DATA", Path(__file__).resolve().parents[1].parent / "shared" / "data"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    if not (DATA / "anatomies").is_dir():
        pytest.skip(f"the development data are not at {DATA}; set ANYSTROKE_DATA to their folder")
    return DATA
