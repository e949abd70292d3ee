"""The documentation as a site, made offline from docs/, nbs/, the README and the code: `make docs`.

    python tools/documentation.py            # _docs/index.html
    python tools/documentation.py --pages F  # the Markdown alone, into folder F
"""

import argparse
import logging
import re
import shutil
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(Path(__file__).resolve().parent), str(REPOSITORY)]

from notebooks import markdown_page  # noqa: E402
from reference import commands_page, module_index, module_page, modules, support_page, troubleshooting_page  # noqa: E402

# Pages of docs/ by the question a reader comes with. One that is not there yet is left out, one that is not named stands under "More".
SECTIONS = {
    "Tutorial": ["tutorial/first-report.md", "tutorial/own-feature.md", "tutorial/serve-and-watch.md"],
    "How to": [
        "how-to/cluster.md", "how-to/postgresql.md", "how-to/alerts.md", "how-to/compare.md", "loop.md",
        "serve.md", "page.md", "prediction-log.md", "experiments.md", "monitoring.md", "deploy.md", "runbook.md",
    ],
    "Explanation": ["explanation/leakage.md", "explanation/intervals.md", "explanation/gate.md", "explanation/drift.md", "explanation/loop.md", "replay.md", "maturity.md"],
}  # fmt: skip
ROOT_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
STRANGERS = r"\.\./(?=deploy/|benchmarks/|tests/|settings\.ini|Dockerfile|compose\.yaml)"  # files of the repository that are no pages


def _of_the_root(text: str) -> str:  # links of a notebook to pages of the repository's root, which lies as far above it as the site's does
    for name, page in ROOT_PAGES.items():
        text = re.sub(rf"\]\(((?:\.\./)+){re.escape(name)}", rf"](\1{page}", text)
    return text


def _at_the_root(text: str) -> str:  # a page of the repository's root becomes one of the site's root
    text = re.sub(r"\]\((?:docs/)?", "](", text)
    for name, page in ROOT_PAGES.items():
        text = re.sub(rf"\]\((?:\.\./)?{re.escape(name)}", f"]({page}", text)
    return re.sub(r"\]\(nbs/([^)]*)\.ipynb", r"](notebooks/\1.md", text)


def _in_docs(text: str, depth: int) -> str:  # links that leave docs/ lead to the page the target became, or to its file
    up = "../" * depth
    for name, page in ROOT_PAGES.items():
        text = text.replace(f"]({up}../{name}", f"]({up}{page}")
    text = re.sub(rf"\]\({up}\.\./nbs/([^)]*)\.ipynb", rf"]({up}notebooks/\1.md", text)
    text = text.replace(f"]({up}../reports/", f"]({up}reports/")
    return re.sub(rf"\]\({up}{STRANGERS}", f"]({up}files/", text)


def _copy_docs(pages: Path) -> None:
    docs = REPOSITORY / "docs"
    for file in docs.rglob("*"):
        target = pages / file.relative_to(docs)
        if file.suffix == ".md":
            target.parent.mkdir(parents=True, exist_ok=True)
            inside = file.relative_to(docs).parent
            target.write_text(_in_docs(file.read_text(), len(inside.parts)))
        elif file.suffix in (".png", ".svg", ".diff"):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    for name, page in ROOT_PAGES.items():
        if (REPOSITORY / name).exists():
            (pages / page).write_text(_at_the_root((REPOSITORY / name).read_text()))


def _copy_linked_files(pages: Path) -> None:  # what pages name and is no page: shown as it is
    for page in pages.rglob("*.md"):
        for name in re.findall(r"\]\((?:\.\./)*files/([^)#]+)", page.read_text()):
            target = pages / "files" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, target)


def _notebooks(pages: Path) -> list:
    found = sorted(path for path in (REPOSITORY / "nbs").rglob("*.ipynb") if not any(part.startswith(".") for part in path.relative_to(REPOSITORY).parts))
    by_folder: dict[str, list] = {}
    for path in found:
        name = path.relative_to(REPOSITORY / "nbs").with_suffix(".md")
        page = pages / "notebooks" / name
        markdown_page(path, page)
        page.write_text(_of_the_root(page.read_text()))
        by_folder.setdefault(name.parent.name, []).append(f"notebooks/{name.as_posix()}")
    alone = by_folder.pop("")
    return [*sorted(alone, key=lambda name: not name.endswith("index.md")), *({folder: names} for folder, names in by_folder.items())]


def write_pages(pages: Path) -> list:  # the navigation, as MkDocs reads it
    "All pages of the site as Markdown."
    _copy_docs(pages)
    shutil.copytree(REPOSITORY / "reports", pages / "reports", ignore=shutil.ignore_patterns(".*", "demo"), dirs_exist_ok=True)
    known = list(modules())
    (pages / "reference" / "api").mkdir(parents=True)
    for module in known:
        (pages / "reference" / "api" / f"{module.name}.md").write_text(module_page(module))
    for name, text in {"commands": commands_page(), "functions": module_index(known), "troubleshooting": troubleshooting_page(known), "support": support_page()}.items():
        (pages / "reference" / f"{name}.md").write_text(text)
    _copy_linked_files(pages)
    return _navigation(pages, _notebooks(pages), [f"reference/api/{module.name}.md" for module in known])


def _navigation(pages: Path, notebooks: list, api: list[str]) -> list:
    named = {page for section in SECTIONS.values() for page in section}
    kept = {title: [page for page in section if (pages / page).exists()] for title, section in SECTIONS.items()}
    apart = {*ROOT_PAGES.values(), "benchmarks.md"}
    docs = (path.relative_to(REPOSITORY / "docs").as_posix() for path in sorted((REPOSITORY / "docs").rglob("*.md")))
    more = [page for page in docs if page not in named | apart]
    reference = ["reference/commands.md", "reference/functions.md", {"Modules": api}, "reference/troubleshooting.md", "reference/support.md"]
    project = [page for page in ("contributing.md", "security.md", "changelog.md") if (pages / page).exists()]
    return [
        {"Home": "index.md"},
        *({title: section} for title, section in kept.items() if section),
        {"Reference": [*reference, *(["benchmarks.md"] if (pages / "benchmarks.md").exists() else [])]},
        {"Notebooks": notebooks},
        *([{"More": more}] if more else []),
        {"Project": project},
    ]


def build(site: Path, pages: Path) -> None:
    "The site, from its pages; a link that leads nowhere is an error."
    from mkdocs.commands.build import build as make
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort

    for folder in (site, pages):
        shutil.rmtree(folder, ignore_errors=True)
    pages.mkdir(parents=True)
    nav = write_pages(pages)
    try:
        make(load_config(str(REPOSITORY / "mkdocs.yml"), docs_dir=str(pages), site_dir=str(site), nav=nav, strict=True))
    except Abort as error:
        sys.exit(str(error))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=Path, default=REPOSITORY / "_docs")
    parser.add_argument("--pages", type=Path, default=REPOSITORY / "_proc")
    asked = parser.parse_args()
    build(asked.site.resolve(), asked.pages.resolve())
    print(asked.site / "index.html")
