"""A notebook as a page of Markdown: its prose, its code and what it showed when it was last run."""

import re
from functools import cache
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter


@cache
def _exporter() -> MarkdownExporter:
    return MarkdownExporter()


def _shown(cell: nbformat.NotebookNode) -> bool:
    return not re.match(r"#\|\s*(hide|default_exp)\b", cell.source)


def markdown_page(
    notebook: Path,
    target: Path,  # the page; pictures go into a folder of its name
) -> None:
    "Write a notebook as Markdown: without the words that are for nbdev, with its pictures beside it."
    content = nbformat.read(notebook, as_version=4)
    content.cells = [cell for cell in content.cells if _shown(cell)]
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.MULTILINE)
    content.metadata.setdefault("language_info", {"name": "python"})
    pictures = f"{target.stem}_files"
    text, found = _exporter().from_notebook_node(content, resources={"output_files_dir": pictures, "unique_key": target.stem})
    target.parent.mkdir(parents=True, exist_ok=True)
    text = re.sub(r"(\]\((?!https?:)[^)#]*)\.ipynb", r"\1.md", text)
    target.write_text(re.sub(r"\]\(((?:\.\./)+)docs/", r"](\1", text))  # notebooks lie one folder below the site's root, as they do below the repository's
    for name, data in found["outputs"].items():
        file = target.parent / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
