"""What mkdocs does beyond its defaults: the site has the repository's own tree, so that every relative link works on both.

README.md becomes the first page, docs/ and the READMEs of other folders keep their places, and every source file that a page links to
becomes a page that shows it. Nothing is fetched: colours of code come from Pygments instead of a script from elsewhere.
"""

import pathlib
import posixpath
import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pygments.formatters import HtmlFormatter

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = ("*.md", "docs/*.md", "benchmarks/README.md", "reproductions/README.md", "reproductions/results/README.md")
NOT_PAGES = ("docs/configuration_head.md",)  # a part of docs/configuration.md
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)")  # the path in [text](path#heading)
COPIED = (".md", ".png", ".svg", ".mp4", ".gif", ".html")  # what the site holds as it is; other files are shown
LOOK = """
.codehilite { background: none }
.wy-nav-content { max-width: 1050px }
.rst-content code, .rst-content a code { color: #3a4a5a }
.rst-content a code { color: #2980b9 }
.rst-content table.docutils td, .rst-content .wy-table-responsive table td { white-space: normal }
"""


def pages() -> list[str]:
    """Paths of the Markdown files that the site takes from the repository."""
    found = [path.relative_to(ROOT).as_posix() for pattern in PAGES for path in ROOT.glob(pattern)]
    return sorted(set(found) - set(NOT_PAGES))


def target(page: str, link: str) -> str | None:
    """The file or folder of the repository that a page's link leads to; None if there is none, which mkdocs then reports."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    return path if (ROOT / path).exists() else None


def place(path: str) -> str:
    """Where the site has a file or folder of the repository, as a source of mkdocs."""
    if (ROOT / path).is_dir():
        return f"{path}/README.md" if f"{path}/README.md" in pages() else f"{path}/index.md"
    return path if path.endswith(COPIED) else f"{path}.md"


def shown(path: str) -> str:
    """The page of a source file, or of a folder: a list of what is in it."""
    if (ROOT / path).is_dir():
        names = sorted(entry.name for entry in (ROOT / path).iterdir() if entry.name[0] not in "._")
        return f"# {path}/\n\n" + "\n".join(f"- {name}" for name in names)
    fence, language = "`" * 8, pathlib.Path(path).suffix[1:] or "text"
    return f"# {path}\n\n{fence}{language}\n{(ROOT / path).read_text()}\n{fence}\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The repository's pages in their places, and what they link to."""
    theme = [file for file in files if config.docs_dir not in str(file.abs_src_path)]
    found: dict[str, dict[str, Any]] = {page: {"abs_src_path": str(ROOT / page)} for page in pages()}
    for page in pages():
        for path in filter(None, (target(page, link) for link in LINK.findall((ROOT / page).read_text()))):
            found.setdefault(place(path), {"abs_src_path": str(ROOT / path)} if path.endswith(COPIED) else {"content": shown(path)})
    found["code.css"] = {"content": HtmlFormatter(style="friendly").get_style_defs(".codehilite") + LOOK}
    return Files([*theme, *(File.generated(config, name, **source) for name, source in found.items())])


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to source files and folders lead to their pages."""
    uri = page.file.src_uri

    def moved(match: re.Match[str]) -> str:
        path = target(uri, match[1])
        return match[1] if path is None else posixpath.relpath(place(path), posixpath.dirname(uri) or ".")

    return nested(LINK.sub(moved, markdown)) if uri in pages() else markdown


def nested(markdown: str) -> str:
    """What belongs to an item of a list four spaces deep, as Python-Markdown wants it; GitHub is content with the width of "- "."""
    lines: list[str] = []
    width, is_fenced, has_paragraphs = 0, False, False  # of the item that the line may belong to
    for line in markdown.splitlines():
        is_fenced ^= line.startswith("```")
        item = None if is_fenced else re.match(r"(?:-|\d+\.) +", line)
        if item:
            if width and has_paragraphs and lines[-1]:
                lines.append("")  # else the item would go on with the paragraph above
            width, has_paragraphs = len(item.group()), False
        belongs = not item and width > 0 and line.startswith(" " * width)
        if line and not item and not belongs:
            width = 0
        has_paragraphs |= not line
        lines.append(" " * 4 + line[width:] if belongs else line)
    return "\n".join(lines)
