"""Hides who a patient is: salted hashes instead of names, and texts with a patient's name and numbers replaced.

The salt is a random secret of the main checkout. Without it nobody can find a patient by hashing all of a hospital's
numbers.
"""

import hashlib
import hmac
import os
import re
import secrets
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from nightshift.console.errors import UserError
from nightshift.core.project import root

SALT = Path(".nightshift/salt")  # ignored by git and DVC, shared with queued runs through DVC_ROOT


def pseudonym(text: str) -> str:
    """12 hexadecimal digits for `text`, the same whenever the salt is. Raises UserError for a damaged salt file."""
    return hmac.new(_salt(), text.encode(), hashlib.sha256).hexdigest()[:12]


def hidden(text: str, words: Iterable[str]) -> str:
    """`text` with *** in place of each of `words`, in any case and with any separator between letters and digits.

    A word of fewer than four letters and digits counts only where it stands alone: `LI` is in `li_2`, not in `slice`.
    A word of one is ignored.
    """
    text = unicodedata.normalize("NFC", text)  # file systems write ü in two ways
    for pattern in filter(None, map(_pattern, words)):
        text = pattern.sub("***", text)
    return text


@cache
def _pattern(word: str) -> re.Pattern[str] | None:
    letters = re.findall(r"[^\W_]", unicodedata.normalize("NFC", word))
    pattern = r"[\W_]?".join(letters)
    if len(letters) < 4:
        pattern = rf"(?<![^\W_]){pattern}(?![^\W_])"
    return re.compile(pattern, re.IGNORECASE) if len(letters) > 1 else None


def _salt() -> bytes:
    path = root() / SALT
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"salt.{os.getpid()}.tmp")
        temporary.touch(mode=0o600)
        temporary.write_text(secrets.token_hex(32), encoding="ascii")
        try:
            os.link(temporary, path)  # unlike a rename, it does not replace the salt that another process has just made
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    salt = path.read_bytes().strip()
    if not re.fullmatch(rb"[0-9a-f]{64}", salt):
        raise UserError(f"{path}: not a salt of 64 hexadecimal digits; restore it, or delete it for a new one")
    return salt
