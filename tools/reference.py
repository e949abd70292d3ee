"""Reference pages made from the code: every command, every public function, every mistake, what is supported."""

import ast
import re
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

from fastcore.docments import docments

import ride_duration

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "ride_duration"
FLOORS = {
    "": ("The cellar", "Mistakes, files, databases: what every floor stands on."),
    "data": ("data", "Months, TLC's contract, the demo city, where months come from, clean trips, zones."),
    "model": ("model", "The ladder, features, the boosted model and its ranges, the bundle, measures, pictures."),
    "ops": ("ops", "Training, tracking, the gate, the registry, the prediction log, findings, reports, the loop."),
    "serve": ("serve", "Which model answers a ride, the service, its status and its page."),
}


def cell(text: object) -> str:
    "Text inside a table of Markdown."
    return re.sub(r"\s+", " ", str(text or "")).replace("|", "\\|").replace("<", "&lt;").strip()


def code(text: object) -> str:
    "Code inside a table of Markdown."
    return f"`{' '.join(str(text).split())}`" if text else ""  # a bar between backticks ends no cell


# -- commands


def commands_page() -> str:
    "Every command with its arguments and options, from the command line itself."
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from ride_duration.cli import app

    group = get_command(app)
    text = get_docs_for_click(obj=group, ctx=group.make_context("ride-duration", [], resilient_parsing=True), name="ride-duration", title="Every command")
    return text.replace("```console\n$ ", "```text\n")


# -- public functions


@dataclass(frozen=True)
class Module:
    "An exported module, read and not imported: a page needs no library of the machine that builds it."

    name: str  # as `data.month`
    notebook: str  # as `data/00_month`
    tree: ast.Module
    text: str

    @property
    def answer(self) -> str:  # the line under the notebook's title
        return ast.get_docstring(self.tree) or ""

    @property
    def public(self) -> list[ast.AST]:
        listed = next((ast.literal_eval(node.value) for node in self.tree.body if isinstance(node, ast.Assign) and _names(node) == ["__all__"]), [])
        found = [node for node in self.tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name in listed]
        return sorted(found, key=lambda node: listed.index(node.name))


def _names(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]


def modules() -> Iterator[Module]:
    "Every module that a notebook exports, in the order of the notebooks."
    found = []
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        notebook = re.search(r"File to edit: (?:\.\./)+nbs/(\S+)\.ipynb", text)
        if notebook:
            found.append(Module(".".join(path.relative_to(PACKAGE).with_suffix("").parts), notebook[1], ast.parse(text), text))
    yield from sorted(found, key=lambda module: module.notebook)


def _parameters(function: ast.FunctionDef) -> Iterator[tuple[str, str, str]]:  # name, type, default
    arguments = function.args
    placed = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(placed) - len(arguments.defaults)) + list(arguments.defaults)
    starred = [(f"*{arguments.vararg.arg}", arguments.vararg, None)] if arguments.vararg else []
    double = [(f"**{arguments.kwarg.arg}", arguments.kwarg, None)] if arguments.kwarg else []
    named = zip((a.arg for a in arguments.kwonlyargs), arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    for name, argument, default in [*zip((a.arg for a in placed), placed, defaults, strict=True), *starred, *named, *double]:
        if name not in ("self", "cls"):
            yield name, (argument.annotation and ast.unparse(argument.annotation)) or "", (default and ast.unparse(default)) or ""


def _function(module: Module, node: ast.FunctionDef, heading: str) -> Iterator[str]:
    said = docments(ast.get_source_segment(module.text, node), returns=True)
    yield f"{heading} `{node.name}` {{ #{module.name}.{node.name} }}\n"
    if ast.get_docstring(node):
        yield f"{ast.get_docstring(node)}\n"
    rows = [(code(name), code(kind), code(default), cell(said.get(name.strip("*")))) for name, kind, default in _parameters(node)]
    if node.returns is not None and ast.unparse(node.returns) != "None":
        rows.append(("*returns*", code(ast.unparse(node.returns)), "", cell(said.get("return"))))
    if rows:
        yield "| parameter | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _fields(module: Module, node: ast.ClassDef) -> Iterator[str]:
    lines = module.text.splitlines()
    rows = [
        f"| {code(field.target.id)} | {code(ast.unparse(field.annotation))} | {cell(lines[field.end_lineno - 1].partition('  # ')[2])} |"
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and not field.target.id.startswith("_")
    ]
    if rows:
        yield "| field | type | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def _class(module: Module, node: ast.ClassDef) -> Iterator[str]:
    yield f"## `{node.name}` {{ #{module.name}.{node.name} }}\n"
    yield f"{ast.get_docstring(node) or ''}\n"
    yield from _fields(module, node)
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
            yield from _function(module, method, f"### {node.name}.")


def module_page(module: Module) -> str:
    "What a module offers."
    parts = [f"# ride_duration.{module.name}\n", f"{module.answer}\n", f"Explained, shown and tested in its notebook, [{module.notebook}](../../notebooks/{module.notebook}.md).\n"]
    for node in module.public:
        parts += _class(module, node) if isinstance(node, ast.ClassDef) else _function(module, node, "##")
    return "\n".join(parts)


def module_index(known: list[Module]) -> str:
    "All modules, floor by floor."
    parts = ["# Every public function\n", f"`ride_duration` itself offers {', '.join(map(code, ride_duration.__all__))}; the rest is imported from where it lives.\n"]
    for floor, (name, says) in FLOORS.items():
        rows = [f"| [{module.name}](api/{module.name}.md) | {cell(module.answer)} | {', '.join(code(node.name) for node in module.public)} |" for module in known if module.name.rpartition(".")[0] == floor]
        parts.append(f"## {name}\n\n{says}\n\n| module | answers | offers |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


# -- mistakes


@dataclass(frozen=True)
class Said:
    "One line that a person may read on stderr, as it stands in the code."

    kind: str
    text: str  # what is filled in is written as …
    module: str


def _template(node: ast.AST) -> str | None:  # the words of a literal, an f-string or two of them joined
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part) or "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _template(node.left), _template(node.right)
        return f"{left or '…'}{right or '…'}" if left or right else None
    if isinstance(node, ast.IfExp):
        return " / ".join(filter(None, (_template(node.body), _template(node.orelse)))) or None
    return None


def said(known: list[Module], kinds: set[str]) -> list[Said]:
    "Every message of every kind, found where it is made."
    found = {}
    for module in known:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds and node.args:
                text = _template(node.args[0])
                if text and re.search(r"\w{3}", text):
                    found.setdefault((node.func.id, text), Said(node.func.id, text, module.name))
    return list(found.values())


def troubleshooting_page(known: list[Module]) -> str:
    "Each kind of mistake: its exit code, what it means, what to do, and the lines it is told in."
    from ride_duration.errors import error_kinds

    kinds = list(error_kinds())
    lines = said(known, {kind.__name__ for kind in kinds})
    parts = [
        "# When something goes wrong\n",
        "A mistake is one line on stderr that begins with `ride-duration:` and says how to mend it, and an exit code. Look for the code (`echo $?`) or for some words of the line. "
        "This page is made from the code; `…` stands for what is filled in. Exit code 1 is a fault of ours and shows its traceback on purpose; 2 is a misspelt command or option.\n",
        "| code | kind | meaning |\n|---|---|---|",
        *(f"| [{kind.exit_code}](#{kind.__name__.lower()}) | {code(kind.__name__)} | {cell(kind.__doc__)} |" for kind in kinds),
        "",
    ]
    for kind in kinds:
        parts.append(f"## {kind.exit_code}: {kind.__doc__} {{ #{kind.__name__.lower()} }}\n")
        parts.append(f"**Repair.** {kind.repair}\n")
        told = [f"| {cell(line.text)} | [{line.module}](api/{line.module}.md) |" for line in lines if line.kind == kind.__name__]
        if told:
            parts.append("| it says | where |\n|---|---|\n" + "\n".join(told) + "\n")
    return "\n".join(parts)


# -- what is supported


def support_page() -> str:
    "Versions of Python and of the libraries: the lowest that is asked for and the one this release was tested with."
    config = ConfigParser(delimiters=["="])
    config.read(REPOSITORY / "settings.ini", encoding="utf-8")
    settings = config["DEFAULT"]
    pinned = dict(line.lower().replace("_", "-").split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line)
    parts = [
        "# What is supported\n",
        f"Python {settings['min_python']} to 3.13 on Linux. The lowest versions are those of `settings.ini`, the tested ones those of `constraints.txt`; CI runs both. An extra is installed as `pip install 'ride-duration[NAME]'`.\n",
    ]
    extras = [name for name in settings if name.endswith("_requirements") and name not in ("all_requirements", "dev_requirements")]
    for name in ["requirements", *extras]:
        title = "the core" if name == "requirements" else f"the extra `{name.removesuffix('_requirements')}`"
        rows = []
        for requirement in settings[name].split():
            library, low, bounds = re.match(r"([\w.-]+(?:\[\w+\])?)(?:>=([\w.]+))?,?(\S*)", requirement).groups()
            bare = re.sub(r"\[.*", "", library).lower().replace("_", "-")
            rows.append(f"| {library} | {low or ''} | {pinned.get(bare, '')} | {code(bounds)} |")
        parts.append(f"## {title[0].upper() + title[1:]}\n\n| library | lowest | tested | other bounds |\n|---|---|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)
