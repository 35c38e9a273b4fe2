"""Which product was selected last: a line that starts again after a fault must not inspect another one in silence."""

import logging
from collections.abc import Sequence
from pathlib import Path

from edge.util.atomic_file import replacing, sync_folder

logger = logging.getLogger(__name__)

FILE_NAME = "product"


class ProductMemory:
    """Keeps the selected product over restarts.

    Args:
        folder: None: nothing is kept.
        names: the products that the line has.
        otherwise: the product in force where none was selected.
    """

    def __init__(self, folder: Path | None, names: Sequence[str], otherwise: str | None) -> None:
        self.selected: str | None = None
        """The product that was selected, before the start as well; None where none ever was."""
        self.fault: str | None = None
        """Why the product in force will not be in force after a restart, in words; None: it will."""
        self._folder, self._otherwise = folder, otherwise
        if not names:
            return
        try:
            selected = remembered_product(folder)
        except (OSError, UnicodeDecodeError) as error:
            self.fault = f"which product was selected before the start cannot be read ({error})"
            logger.error("%s; %s is in force", self.fault, otherwise)
            return
        if selected is None or selected in names:
            self.selected = selected
        else:
            logger.warning("product %r was selected, and the line has none of that name any more", selected)

    def remember(self, product: str) -> None:
        """Keep it; where it cannot be written, `fault` says so, and where nothing is kept, the log."""
        self.selected = product
        if self._folder is None and product != self._otherwise:
            logger.warning(
                "a restart puts product %s in force, not %s: there is no folder to keep the selection in; "
                "set journal.folder, or run the line as a service",
                self._otherwise,
                product,
            )
        try:
            remember_product(self._folder, product)
            self.fault = None
        except OSError as error:
            if self.fault is None:
                logger.error("%s cannot be written (%s): a restart may undo the selection", self._folder, error)
            self.fault = f"{self._folder} cannot be written: a restart may undo the selection"


def remembered_product(folder: Path | None) -> str | None:
    """The product that was selected last; None where none ever was, or nothing is kept.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read.
    """
    if folder is None:
        return None
    try:
        return (folder / FILE_NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def remember_product(folder: Path | None, product: str) -> None:
    """Keep it; either the old or the new one is there, whatever happens meanwhile.

    Raises:
        OSError: it cannot be written, and the old one is there still.
    """
    if folder is None:
        return
    with replacing(folder / FILE_NAME) as new:
        new.write_text(product, encoding="utf-8")
    sync_folder(folder)
