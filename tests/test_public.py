import subprocess
import sys
from pathlib import Path

import anystroke


def test_every_public_name_can_be_loaded() -> None:
    for name in anystroke.__all__:
        assert getattr(anystroke, name) is not None
    assert set(anystroke.__all__) <= set(dir(anystroke))
    assert len(anystroke.__all__) <= 40


def test_importing_the_package_does_not_load_torch() -> None:
    code = "import sys, anystroke, anystroke.commands.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_top_of_the_package_holds_nothing_but_folders() -> None:
    files = {path.name for path in Path(anystroke.__file__).parent.iterdir() if path.is_file()}
    assert files == {"__init__.py", "__main__.py", "py.typed"}
