"""The code stays plain: how much its lines say, counted in nodes of Python's syntax tree.

nodes per line   of the lines of code, which hold more than a comment or a docstring
folded lines     those that fold a decision or a loop into an expression: a conditional expression, a walrus, a lambda, text or a list
                 times a condition, a comprehension inside another or over two loops, a star in a call or in a display
Tests are left out."""
import ast
import io
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
SILENT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def sources():
    """-> the project's source files, in order."""
    files = list(ROOT.glob("*.py"))
    for room in ("plumbing", "evaluation", "experiments"):
        files += (ROOT / room).glob("*.py")
    return sorted(files)


def docstring_lines(tree):
    lines = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node) is not None:
            lines.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def code_lines(text, tree):
    """-> numbers of the lines that hold code."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - docstring_lines(tree)


def walk(node, inside=False):
    """Every node but bare texts, and whether it stands inside a comprehension."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return
    yield node, inside
    for child in ast.iter_child_nodes(node):
        yield from walk(child, inside or isinstance(node, COMPREHENSIONS))


def is_text_or_list(node):
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str)
    return isinstance(node, (ast.List, ast.Tuple, ast.JoinedStr))


def is_whole_number(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, int)


def is_folded(node, inside):
    if isinstance(node, (ast.IfExp, ast.NamedExpr, ast.Lambda)):
        return True
    if isinstance(node, COMPREHENSIONS):
        return inside or len(node.generators) > 1
    if isinstance(node, ast.Call):
        return any(isinstance(arg, ast.Starred) for arg in node.args) or any(word.arg is None for word in node.keywords)
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        is_read = isinstance(getattr(node, "ctx", ast.Load()), ast.Load)
        return is_read and any(isinstance(element, ast.Starred) for element in node.elts)
    if isinstance(node, ast.Dict):
        return None in node.keys
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        for one, other in ((node.left, node.right), (node.right, node.left)):
            if is_text_or_list(one) and not is_whole_number(other):
                return True
    return False


def measure(path):
    """-> dict of a file: lines of text, code lines, nodes, folded lines, and {function: code lines}."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    code = code_lines(text, tree)
    nodes = list(walk(tree))
    folded = {node.lineno for node, inside in nodes if hasattr(node, "lineno") and is_folded(node, inside)}
    functions = {}
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            functions[f"{path.name}:{node.lineno} {node.name}"] = len(code & set(range(node.lineno, node.end_lineno + 1)))
    return {"text": text.splitlines(), "code": len(code), "nodes": len(nodes), "folded": len(folded), "functions": functions,
            "docstring": ast.get_docstring(tree) or ""}


@pytest.fixture(scope="module")
def files():
    """{path: what `measure` says of it}"""
    return {str(path.relative_to(ROOT)): measure(path) for path in sources()}


def total(files, key):
    return sum(file[key] for file in files.values())


def test_a_line_says_one_thing(files):
    """At most 11.5 nodes per line of code over the whole project, and 13 in any file."""
    dense = {name: round(file["nodes"] / file["code"], 1) for name, file in files.items() if file["nodes"] > 13 * file["code"] > 0}
    assert not dense
    assert total(files, "nodes") <= 11.5 * total(files, "code")


def test_decisions_and_loops_are_statements(files):
    """At most 6 % of the lines of code fold one into an expression."""
    assert total(files, "folded") <= 0.06 * total(files, "code")


def test_lines_fit_the_page(files):
    """No line is longer than 110 columns, comments and docstrings included."""
    long = [f"{name}:{i}" for name, file in files.items() for i, line in enumerate(file["text"], 1) if len(line) > 110]
    assert not long


VAGUE = {"map", "said", "each", "found", "told", "held", "of", "at", "there"}


def test_names_say_what_they_hold():
    """No variable, argument, attribute, function or class has one of the VAGUE names."""
    vague = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_bound = isinstance(getattr(node, "ctx", ast.Store()), ast.Store)
            names = [getattr(node, field, None) for field in ("id", "arg", "attr", "name")]
            if is_bound and not isinstance(node, (ast.keyword, ast.alias)):
                vague += [f"{path.name}:{node.lineno} {name}" for name in names if name in VAGUE]
    assert not vague


LONGER = {  # lines; why a file may have more than 350
    "train.py": 400,        # loss, learning rate, optimizer, step and loop are read together
}


def test_files_are_short(files):
    """At most 350 lines, but for LONGER."""
    long = {name: len(file["text"]) for name, file in files.items() if len(file["text"]) > LONGER.get(name, 350)}
    assert not long


def test_functions_are_short(files):
    """Nine of ten have at most 25 lines of code, and none more than 80."""
    functions = {}
    for file in files.values():
        functions.update(file["functions"])
    lengths = sorted(functions.values())
    assert lengths[int(0.9 * len(lengths))] <= 25
    assert {name: length for name, length in functions.items() if length > 80} == {}


def test_the_counts_are_right(tmp_path):
    """A file whose nodes and lines were counted by hand."""
    path = tmp_path / "small.py"
    path.write_text('"""Docstring.\n\nMore."""\nimport os\n\n\ndef f(x):\n    """Doc."""\n    # why\n    return [*x, 1] if x else ["a"] * x\n')
    small = measure(path)
    assert (small["code"], len(small["text"]), small["folded"]) == (3, 10, 1)
    # Module, Import, alias; FunctionDef, arguments, arg; Return, IfExp, x: Name, Load; [*x, 1]: List, Starred, Name, Load, Load,
    # Constant, Load; ["a"] * x: BinOp, Mult, Name, Load, List, Constant, Load
    assert small["nodes"] == 24
    assert small["functions"] == {"small.py:7 f": 2}
