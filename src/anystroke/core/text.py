"""Text that can be written anywhere, also of file names that are not in UTF-8."""

import os
from pathlib import Path


def readable(text: str | Path) -> str:
    r"""Return a text in which bytes of file names that are not UTF-8 are the letters of an old code page.

    Args:
        text: A text, or a path as the operating system gave it.

    Example:
        >>> readable(os.fsdecode(b"M\xfcller.nii"))
        'Müller.nii'
    """
    text = str(text)
    if not any("\udc80" <= letter <= "\udcff" for letter in text):
        return text
    return os.fsencode(text).decode("cp1252", "replace")
