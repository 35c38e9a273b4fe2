"""Drawn photographs of printed circuit boards with exact defect masks.

`draw_board` draws one board; `write_boards` draws a folder of boards.
"""

from .board import DrawnBoard, DrawnDefect, draw_board
from .defects import DEFECT_KINDS
from .folder import write_boards

__all__ = ["DEFECT_KINDS", "DrawnBoard", "DrawnDefect", "draw_board", "write_boards"]
