"""The site of these pages: `make docs` builds it with Sphinx, without a network."""

import importlib
import inspect
import os
import re
from pathlib import Path
from typing import Any

import msgspec
from docutils import nodes
from msgspec import inspect as kinds
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

project = "heatline"
html_title = "heatline"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
html_theme = "furo"
html_theme_options = {"navigation_with_keys": True}
exclude_patterns = ["_build"]
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_block"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
suppress_warnings = ["myst.xref_missing"]  # of files out of this folder; tests/test_docs.py checks all links
default_role = "code"
smartquotes = False
nitpicky = False


class StructTable(SphinxDirective):
    """A table of the keys of a msgspec struct: type, default, bounds and docstring. The argument is its full name."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        module, _, name = self.arguments[0].rpartition(".")
        struct = getattr(importlib.import_module(module), name)
        self.env.note_dependency(inspect.getsourcefile(struct) or "")
        lines = [inspect.cleandoc(struct.__doc__ or ""), "", "| key | type | default | meaning |", "|---|---|---|---|"]
        info = kinds.type_info(struct)
        assert isinstance(info, kinds.StructType)
        if info.tag_field:
            lines.append(f'| `{info.tag_field}` | `"{info.tag}"` | required | |')
        for field in info.fields:
            meaning = " ".join(_docstring(struct, field.name).split())
            lines.append(f"| `{field.encode_name}` | {_type(field.type)} | {_default(field)} | {meaning} |")
        return self.parse_text_to_nodes("\n".join(lines))


def _docstring(struct: type, name: str) -> str:
    """Return what stands below a field, also of the struct that it comes from."""
    for each in struct.__mro__:
        if name in inspect.get_annotations(each):
            analyzer = ModuleAnalyzer.for_module(each.__module__)
            return "\n".join(analyzer.find_attr_docs().get((each.__qualname__, name), []))
    return ""


def _default(field: Any) -> str:
    if field.required:
        return "required"
    default = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    elif default is msgspec.NODEFAULT:
        return ""
    if default is None:
        return "none"
    if isinstance(default, msgspec.Struct):
        return ""
    return f"`{msgspec.json.encode(default, enc_hook=str).decode()}`"


def _type(kind: Any) -> str:
    """Return a type in words, with its bounds."""
    match kind:
        case kinds.Metadata():
            return _type(kind.type)
        case kinds.UnionType():
            return " or ".join(_type(each) for each in kind.types if not isinstance(each, kinds.NoneType))
        case kinds.LiteralType():
            return ", ".join(f"`{value}`" for value in kind.values)
        case kinds.StructType():
            tag = "" if kind.tag is None else f" `{kind.tag}`"
            return f"table{tag}"
        case kinds.ListType():
            return f"list of {_type(kind.item_type)}"
        case kinds.DictType():
            return f"table of {_type(kind.value_type)}"
        case kinds.TupleType():
            return f"[{', '.join(_type(each).partition(',')[0] for each in kind.item_types)}]"
        case kinds.IntType() | kinds.FloatType():
            name = "int" if isinstance(kind, kinds.IntType) else "number"
            bounds = {"≥": kind.ge, ">": kind.gt, "≤": kind.le, "<": kind.lt}
            return ", ".join([name, *(f"{sign} {value:g}" for sign, value in bounds.items() if value is not None)])
        case kinds.CustomType():
            return "path" if issubclass(kind.cls, Path) else kind.cls.__name__
        case kinds.BoolType():
            return "bool"
        case _:
            return "text"


def _with_inner_links(text: str, base: Path, page: Path, site: Path) -> str:
    """Return a page's text with links from its place; what lies out of the site is only named.

    Args:
        base: folder that the links of the text start at.
        page: folder of the page.
    """

    def moved(link: re.Match[str]) -> str:
        target, _, anchor = link[3].partition("#")
        if not target or ":" in target:
            return link[0]
        file = (base / target).resolve()
        if not file.is_relative_to(site):
            return f"{link[2]} (`{file.relative_to(site.parent)}`)"
        return f"{link[1]}[{link[2]}]({os.path.relpath(file, page)}{anchor and '#'}{anchor})"

    return re.sub(r"(!?)\[([^\[\]]+)\]\(([^)\s]+)\)", moved, text)


def _read(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the README into the first page, and name what lies out of the folder: the site has only these pages."""
    site = Path(app.srcdir).resolve()
    page = (site / name).parent
    source[0] = _with_inner_links(source[0], page, page, site)
    if name == "index":
        readme = (site.parent / "README.md").read_text().partition("\n")[2]
        source[0] = source[0].replace("README", _with_inner_links(readme, site.parent, page, site), 1)


def _as_code(app: Sphinx, context: object, lines: list[str]) -> None:
    """Show a command's examples as they are typed."""
    typed = [line.strip().removeprefix("Example:").strip() for line in lines]
    lines[:] = [".. code-block:: sh", "", *(f"   {line}" for line in typed if line), ""]


def setup(app: Sphinx) -> None:
    """Register the table, the change of links and that of examples."""
    app.connect("sphinx-click-process-epilog", _as_code)
    app.add_directive("struct", StructTable)
    app.connect("source-read", _read)
