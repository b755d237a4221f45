"""One look for all pages: templates filled with facts, which need nothing from the network."""

import base64
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from anystroke.core.files import atomic_path

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=PackageLoader("anystroke.reports"),
        trim_blocks=True,
    )


def render(template: str, **facts: object) -> str:
    """Fill in a page.

    Templates extend ``base.html``, which holds the style sheet. They know the ``version`` of the program.

    Args:
        template: Name of a file of ``templates/``.
        **facts: What the template names. Text is escaped; tables that are HTML already are marked ``safe`` in
            the template.

    Returns:
        The page.

    Raises:
        jinja2.TemplateNotFound: There is no such template.
        jinja2.UndefinedError: The template names a fact that is not given.

    Example:
        >>> facts = {"name": "sub-01", "picture": "a.png", "facts": [], "maps": [], "assumed": {}}
        >>> "0 &lt; 1" in render("estimate.html", warnings=["0 < 1"], **facts)
        True
    """
    return _environment().get_template(template).render(version=version("anystroke"), **facts)


def write_page(path: Path, template: str, **facts: object) -> None:
    """Write a page, see ``render``; one that is there is replaced.

    Raises:
        OSError: The file cannot be written.
    """
    text = render(template, **facts)
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def embed(picture: Path) -> str:
    """Read a PNG as an address that a page can hold in place of a file's.

    Raises:
        OSError: The file cannot be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.png"
        >>> _ = path.write_bytes(b"png")
        >>> embed(path)
        'data:image/png;base64,cG5n'
    """
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode('ascii')}"
