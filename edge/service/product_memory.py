"""Stores which product was selected last, so that a line that restarts after a fault inspects the same product."""

import logging
from collections.abc import Sequence
from pathlib import Path

from heatline.edge.util.files import replacing, sync_folder

logger = logging.getLogger(__name__)

FILE_NAME = "product"


class ProductMemory:
    """Stores the selected product over restarts.

    Args:
        folder: None: nothing is stored.
        names: the line's products.
        default: the active product if none was selected.
    """

    def __init__(self, folder: Path | None, names: Sequence[str], default: str | None) -> None:
        self.selected: str | None = None
        """The product that was selected, also before the start; None if none was."""
        self.fault: str | None = None
        """Why a restart may activate another product; None if it does not."""
        self._folder, self._default = folder, default
        if not names:
            return
        try:
            selected = read_stored_product(folder)
        except (OSError, UnicodeDecodeError) as error:
            self.fault = f"the product that was selected before the start cannot be read ({error})"
            logger.error("%s; product %s is active", self.fault, default)
            return
        if selected is None or selected in names:
            self.selected = selected
        else:
            logger.warning("product %r was selected, but the line no longer has a product of that name", selected)

    def store(self, product: str) -> None:
        """Store the selected product. If that fails, set `fault`; without a folder, log a warning."""
        self.selected = product
        if self._folder is None and product != self._default:
            logger.warning(
                "a restart activates product %s, not %s: there is no folder to store the selection in; "
                "set journal.folder, or run the line as a service",
                self._default,
                product,
            )
        try:
            store_product(self._folder, product)
            self.fault = None
        except OSError as error:
            if self.fault is None:
                logger.error("%s cannot be written (%s): a restart may undo the selection", self._folder, error)
            self.fault = f"{self._folder} cannot be written: a restart may undo the selection"


def read_stored_product(folder: Path | None) -> str | None:
    """Return the product that was selected last; None if none was selected or there is no folder.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read.
    """
    if folder is None:
        return None
    try:
        return (folder / FILE_NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def store_product(folder: Path | None, product: str) -> None:
    """Write the selected product. After a crash the file holds either the old or the new one.

    Raises:
        OSError: it cannot be written; the file still holds the old one.
    """
    if folder is None:
        return
    with replacing(folder / FILE_NAME) as new:
        new.write_text(product, encoding="utf-8")
    sync_folder(folder)
