"""Brings what lies outside docs/ into the site, and turns links the way the site lies.

Pages are written for who reads them in the repository: README.md links to docs/serve.md, and that
to ../benchmarks/RESULTS.md. On the site, docs/ is the root, the rest of the repository beside it.
"""

import os
import pathlib
import posixpath
import re
import sys

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent
OUTSIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md")
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def on_startup(**_: object) -> None:
    """Lets the cells of notebooks find the command `jaxvision` of this environment."""
    os.environ["PATH"] = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))


def on_files(files, config):
    """Adds the pages outside docs/, and every file that a page links to."""
    pages = [*OUTSIDE, *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
    wanted = set(OUTSIDE)
    for page in pages:
        for target in LINK.findall((ROOT / page).read_text()):
            path = _in_repository(page, target)
            if not path.startswith("docs/") and (ROOT / path).is_file():
                wanted.add(path)
    for path in sorted(wanted):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns the links of a page."""
    own = page.file.src_uri
    source = own if own in OUTSIDE else f"docs/{own}"

    def turned(match: re.Match) -> str:
        path = _in_repository(source, match[1])
        return posixpath.relpath(path.removeprefix("docs/"), posixpath.dirname(own) or ".")

    return LINK.sub(turned, markdown)


def on_page_content(html, page, config, files):
    """Turns the links of a notebook, which is HTML by now."""
    own = page.file
    if not own.src_uri.endswith(".ipynb"):
        return html

    def turned(match: re.Match) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(own.src_uri), match[1]))
        file = files.get_file_from_path(path)
        if file is None:
            raise PluginError(f"{own.src_uri} links to {match[1]}, which is not there.")
        return f'href="{file.url_relative_to(own)}"'

    return re.sub(r'href="([\w./]+\.md)"', turned, html)


def _in_repository(page: str, target: str) -> str:
    """Returns the path in the repository of what a page links to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
