import os
from pathlib import Path

import pytest
import torch

from phantoms import pack_phantoms

torch.set_num_threads(1)

DATA = Path(os.environ.get("ANYSTROKE_DATA", Path(__file__).resolve().parents[1].parent / "shared" / "data"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    if not (DATA / "anatomies").is_dir():
        pytest.skip(f"the development data are not at {DATA}; set ANYSTROKE_DATA to their folder")
    return DATA


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run, with packed data of phantoms."""
    pack_phantoms(tmp_path / "data")
    return tmp_path
