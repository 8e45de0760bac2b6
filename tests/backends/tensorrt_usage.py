"""What a source file uses of TensorRT, read from its syntax tree, and whether an API has it.

Types are followed from the annotations `tensorrt.X`, from constructors `trt.X(...)` and from what the API says that a
method returns. A name `trt` or `tensorrt` is the module; so is what `bindings()` returns.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Api = dict[str, Any]
Kind = tuple[str, str]  # "module", "class", "object" or "list" (of such objects), and the class's name
MODULE: Kind = ("module", "")


@dataclass(frozen=True)
class Use:
    """owner: a class, "" for the module. complaint: why the API has no such thing; empty if it has."""

    owner: str
    name: str
    line: int
    complaint: str = ""

    @property
    def symbol(self) -> str:
        return f"{self.owner}.{self.name}".lstrip(".")


class Reader(ast.NodeVisitor):
    """Visits a module; `uses` then holds every use, and `unknown` the attributes of what isn't TensorRT's."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.uses: list[Use] = []
        self.unknown: set[str] = set()
        self._scopes: list[dict[str, Kind | None]] = [{}]
        self._own: dict[str, Kind | None] = {}  # attributes of self, in the class that is being read

    # Names, and what they stand for.

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._scopes.append({})
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            self._scopes[-1][argument.arg] = self._annotated(argument.annotation)
        self.generic_visit(node)
        self._scopes.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        own, self._own = self._own, {}
        for base in node.bases:
            kind = self.kind(base)
            if kind and kind[0] == "class":
                self._check_overrides(node, kind[1])
        for statement in node.body:
            self.visit(statement)
        self._own = own

    def visit_Assign(self, node: ast.Assign) -> None:
        value = self.kind(node.value)
        for target in node.targets:
            pairs = zip(target.elts, node.value.elts) if _unpacks(target, node.value) else [(target, None)]  # type: ignore[attr-defined]  # noqa: B905
            for name, part in pairs:
                self._bind(name, self.kind(part) if part else value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.kind(node.annotation)
        if node.value:
            self.kind(node.value)
        self._bind(node.target, self._annotated(node.annotation))

    def visit_For(self, node: ast.For) -> None:
        self._bind(node.target, _element(self.kind(node.iter)))
        for statement in (*node.body, *node.orelse):
            self.visit(statement)

    def visit_Delete(self, node: ast.Delete) -> None:
        pass

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.kind(node)

    def visit_Call(self, node: ast.Call) -> None:
        self.kind(node)

    def _visit_comprehension(self, node: Any) -> None:
        self.kind(node)

    visit_ListComp = visit_GeneratorExp = visit_DictComp = visit_SetComp = _visit_comprehension  # noqa: N815

    def _bind(self, target: ast.expr, kind: Kind | None) -> None:
        if isinstance(target, ast.Name):
            self._scopes[-1][target.id] = kind
        elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
            self._own[target.attr] = kind
        elif isinstance(target, ast.Attribute):
            self._attribute(target, self.kind(target.value), written=True)

    def _annotated(self, annotation: ast.expr | None) -> Kind | None:
        text = ast.unparse(annotation) if annotation else ""
        return ("object", text.removeprefix("tensorrt.")) if text.startswith("tensorrt.") else None

    # Expressions.

    def kind(self, node: ast.expr) -> Kind | None:
        """What `node` is, with every use within it noted."""
        if isinstance(node, ast.Name):
            if node.id in ("trt", "tensorrt"):
                return MODULE
            return next((scope[node.id] for scope in reversed(self._scopes) if node.id in scope), None)
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                return self._own.get(node.attr)
            return self._attribute(node, self.kind(node.value))
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, (ast.ListComp, ast.GeneratorExp, ast.SetComp, ast.DictComp)):
            self._scopes.append({})
            for part in node.generators:
                self._bind(part.target, _element(self.kind(part.iter)))
                for condition in part.ifs:
                    self.kind(condition)
            elements = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            kinds = [self.kind(element) for element in elements]
            self._scopes.pop()
            return ("list", kinds[0][1]) if len(kinds) == 1 and kinds[0] and kinds[0][0] == "object" else None
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.kind(child)
        return None

    def _attribute(self, node: ast.Attribute, base: Kind | None, *, written: bool = False) -> Kind | None:
        if base is None:
            self.unknown.add(node.attr)
            return None
        if base == MODULE:
            known = node.attr in self.api["module"]
            self.uses.append(Use("", node.attr, node.lineno, "" if known else "no such name"))
            return ("class", node.attr) if node.attr in self.api["classes"] else None
        member = self.api["classes"].get(base[1], {}).get(node.attr)
        complaint = "" if member else "no such member"
        if member and written and not member.get("writable"):
            complaint = "can't be set"
        self.uses.append(Use(base[1], node.attr, node.lineno, complaint))
        if not member or member.get("type") not in self.api["classes"]:
            return None
        return ("class" if member["kind"] == "class" else "object", member["type"])

    def _call(self, node: ast.Call) -> Kind | None:
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.kind(argument)
        if isinstance(node.func, ast.Name):
            if node.func.id == "bindings":
                return MODULE
            return None
        if not isinstance(node.func, ast.Attribute):
            self.kind(node.func)
            return None
        made = self.kind(node.func)
        if made and made[0] == "class":
            self._check_call(node, made[1], "__init__")
            return ("object", made[1])
        base = None if made else self._quietly(node.func.value)
        if base and base[0] in ("class", "object"):
            bound = 0 if base[0] == "object" else 1  # X.__init__(self)
            return self._check_call(node, base[1], node.func.attr, skipped=bound)
        return None

    def _quietly(self, node: ast.expr) -> Kind | None:
        uses, unknown = list(self.uses), set(self.unknown)
        kind = self.kind(node)
        self.uses, self.unknown = uses, unknown
        return kind

    def _check_call(self, node: ast.Call, owner: str, name: str, *, skipped: int = 0) -> Kind | None:
        signatures = self.api["classes"].get(owner, {}).get(name, {}).get("signatures", [])
        given, named = len(node.args) - skipped, [keyword.arg for keyword in node.keywords]
        fitting = [found for found in signatures if _fits(found["parameters"], given, named)]
        if signatures and not fitting:
            call = f"{given} arguments and {', '.join(map(str, named)) or 'no keywords'}"
            self.uses.append(Use(owner, name, node.lineno, f"takes no {call}"))
        for keyword in named:
            self.uses.append(Use(owner, f"{name}({keyword}=)", node.lineno))
        found = (fitting or signatures or [{"type": ""}])[0]["type"]
        return ("object", found) if found in self.api["classes"] else None

    def _check_overrides(self, node: ast.ClassDef, base: str) -> None:
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                member = self.api["classes"].get(base, {}).get(method.name)
                named = [argument.arg for argument in method.args.args[1:]]
                complaint = "" if member else "nothing to override"
                if member and named != [name for name, _ in member["signatures"][0]["parameters"]]:
                    complaint = f"takes no {named}"
                self.uses.append(Use(base, method.name, method.lineno, complaint))


def _unpacks(target: ast.expr, value: ast.expr) -> bool:
    return isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts)


def _element(kind: Kind | None) -> Kind | None:
    return ("object", kind[1]) if kind and kind[0] == "list" else None


def _fits(parameters: list[tuple[str, bool]], given: int, named: list[str | None]) -> bool:
    """Whether a call with so many positional arguments and these keywords has all that is required, and no more."""
    rest = dict(parameters[given:])
    return (
        given <= len(parameters) and set(named) <= set(rest) and {n for n, must in rest.items() if must} <= set(named)
    )


def read_uses(source: str, api: Api) -> tuple[list[Use], set[str]]:
    """Every use of TensorRT in `source`, and the attributes of objects that are not TensorRT's."""
    reader = Reader(api)
    reader.visit(ast.parse(source))
    return reader.uses, reader.unknown


def complaints(uses: list[Use]) -> Iterator[str]:
    """A line for each use that the API does not have."""
    return (f"line {use.line}: {use.symbol}: {use.complaint}" for use in uses if use.complaint)
