"""Which code a row of numbers depends on, found in the code itself.

`code_sha256(function)` hashes the syntax trees, without comments, docstrings and layout, of every top-level definition
(function, class, assignment) that `function` can reach by names and imports. A definition counts whole, a file does
not: a drawing function beside the measuring one leaves the hash as it is.

A name leads to the definition it stands for: through imports at the top or inside functions, star imports, packages
that re-export, and packages whose `__getattr__` loads names late. A statement or decorator that changes a name of its
own module (`f.defvjp(...)`, `TABLE[key] = ...`, `@f.register`) belongs to that name. What may change anything else (a
bare call, a loop, a decorator that writes to a table) counts for everyone who imports its module.

Where the code does not say, more counts: all of a module that is used as a value (`getattr(module, name)`), or in which
a name is not found. Three things are left out:
  * packages in site-packages and the standard library: their versions are recorded beside the hash;
  * what only a type checker reads: the annotations of functions are hashed but not followed;
  * what has no name in the code: modules whose name is computed, functions among the arguments of a call. Data files do
    not count either; the loaders in `experiments.data` check them against a SHA-256 in the code, which does.
"""

import ast
import builtins
import functools
import hashlib
import importlib.util
import symtable
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Chain = tuple[str, ...]  # names joined by dots: `theory.linear_rate` is ("theory", "linear_rate")
Reference = tuple[str, Chain]  # a module, and what is looked up in it
Definition = tuple[str, str]  # a module, and a name that its top level defines

EFFECTS = "<module>"  # stands for the statements of a module that define nothing
WHOLE = "*"
OURS = ("rnnjax", "experiments", "benchmarks")
BLOCK = ast.If | ast.For | ast.While | ast.With | ast.Try | ast.Match
DEFINITION = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
OBJECT = ast.Call | ast.Dict | ast.List | ast.Set | ast.DictComp | ast.ListComp | ast.SetComp  # what may be changed
READING = {"copy", "count", "format", "get", "index", "items", "join", "keys", "values"}  # methods that change nothing
UNNAMED = {*dir(builtins), "__builtins__", "__file__", "__name__", "__package__", "__path__", "__spec__"}


def code_sha256(function: Callable[..., Any] | str, sources: Mapping[Path, str] | None = None) -> str:
    """The hash of all code that `function` can reach.

    Args:
      function: a function (jitted, wrapped or partial ones too) or a class, or "module:name" for either.
      sources: texts to read in place of those of the files, by path.
    Raises:
      ValueError: the source of `function` is not found, for example because it was typed into a console.
    """
    code = _Code(sources)
    total = hashlib.sha256()
    for module, names in sorted(code.reach(function).items()):
        for name in sorted(names):
            total.update(f"\0{module}:{name}".encode())
            for statement in code.module(module).statements[name]:
                total.update(statement.dump.encode())
    return total.hexdigest()


def reach(function: Callable[..., Any] | str, sources: Mapping[Path, str] | None = None) -> dict[str, set[str]]:
    """The names of the top-level definitions that count for `function`, by module ("<module>": its other statements).

    Arguments and errors are those of `code_sha256`.
    """
    return _Code(sources).reach(function)


class _Imports:
    """Where imported names come from, and which modules are loaded for them."""

    def __init__(self, nodes: Iterable[ast.AST], package: str):
        self.names: dict[str, list[Reference]] = defaultdict(list)
        self.loads: set[str] = set()
        self.stars: list[str] = []
        for node in nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    self.names[alias.asname or top].append((alias.name if alias.asname else top, ()))
                    self.loads.add(alias.name)
            elif isinstance(node, ast.ImportFrom):
                relative = "." * node.level + (node.module or "")
                base = importlib.util.resolve_name(relative, package)
                self.loads |= {base} | {f"{base}.{alias.name}" for alias in node.names}
                self.stars += [base for alias in node.names if alias.name == "*"]
                for alias in node.names:
                    self.names[alias.asname or alias.name].append((base, (alias.name,)))


class _Statement:
    """One statement at the top level of a module."""

    def __init__(self, node: ast.stmt, names: list[str], text: str, module: str, package: str):
        self.node, self.names, self._module, self._package = node, names, module, package
        first = min([node.lineno, *[decorator.lineno for decorator in _decorators(node)]])
        self._lines = text.splitlines()[first - 1 : node.end_lineno]

    @functools.cached_property
    def dump(self) -> str:
        return ast.dump(self.node)

    @functools.cached_property
    def imports(self) -> _Imports:
        return _Imports(ast.walk(self.node), self._package)

    @functools.cached_property
    def references(self) -> set[Reference]:
        return {found for chain in _chains(self.node) for found in self.looked_up(chain)}

    @functools.cached_property
    def _free(self) -> set[str]:
        """The names that are looked up in the module, not among a function's variables."""
        lines = ["if True:", *self._lines] if self.node.col_offset else self._lines

        def free(table: symtable.SymbolTable) -> Iterator[str]:
            at_top = table.get_type() == "module"
            yield from (symbol.get_name() for symbol in table.get_symbols() if at_top or symbol.is_global())
            for inner in table.get_children():
                yield from free(inner)

        return set(free(symtable.symtable("\n".join(lines), self._module, "exec")))

    def looked_up(self, chain: Chain) -> Iterator[Reference]:
        if chain[0] in self.imports.names:
            yield from ((module, path + chain[1:]) for module, path in self.imports.names[chain[0]])
        elif chain[0] in self._free:
            yield self._module, chain


class _Module:
    """The top level of one file: which statements define, or change, which name."""

    def __init__(self, module: str, package: str, text: str):
        self._origin = text, module, package
        self.statements: dict[str, list[_Statement]] = {}
        tree = ast.parse(text)
        nodes = list(ast.walk(tree))
        self.strings = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        for node in nodes:
            for field in ("body", "orelse", "finalbody"):
                if isinstance(lines := getattr(node, field, None), list):
                    lines[:] = [line for line in lines if not _is_text(line)]  # docstrings
        at_run_time: list[ast.AST] = []
        for_types: list[ast.AST] = []
        self._file(tree.body, at_run_time, for_types)
        self.loads = _Imports(at_run_time, package).loads
        self.for_types = set(_Imports(for_types, package).names)
        imports = _Imports(at_run_time + for_types, package)
        self.stars = imports.stars
        self.imports = {  # without `from package import submodule` in the package itself
            name: [(base, path) for base, path in found if (base, path) != (module, (name,))]
            for name, found in imports.names.items()
        }

    def _file(self, body: list[ast.stmt], imports: list[ast.AST], for_types: list[ast.AST]) -> None:
        for node in body:
            test = ast.unparse(node.test) if isinstance(node, ast.If) else ""
            if isinstance(node, ast.If) and test in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                self._file(node.body, for_types, for_types)
                self._file(node.orelse, imports, for_types)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                imports.append(node)
            elif not test.startswith("__name__ == "):
                self._add(node)
                imports += [inner for inner in ast.walk(node) if isinstance(node, BLOCK)]

    def _add(self, node: ast.stmt) -> None:
        defined = list(_defined(node))
        changed = [name for name in _changed(node) if name in self.statements]
        if isinstance(node, BLOCK) or not defined + changed:
            changed.append(EFFECTS)
        statement = _Statement(node, defined, *self._origin)
        for name in dict.fromkeys(defined + changed):
            self.statements.setdefault(name, []).append(statement)


@functools.lru_cache(maxsize=2048)
def _parsed(module: str, package: str, text: str) -> _Module:
    return _Module(module, package, text)


class _Code:
    """The modules of this project and of the user, and what leads from one definition to another."""

    def __init__(self, sources: Mapping[Path, str] | None):
        self._sources = {path.resolve(): text for path, text in (sources or {}).items()}
        self.module: Callable[[str], Any] = functools.cache(self._read)
        self._next = functools.cache(self._leads_to)
        self._found: dict[Reference, list[Definition] | None] = {}

    def reach(self, function: Callable[..., Any] | str) -> dict[str, set[str]]:
        reached = self._follow(end for module, chain in _starts(function) for end in self._resolve(module, chain))
        if not reached:
            raise ValueError(f"the source of {function!r} is not found; put it into a module of your own.")
        while effects := {end for module in self._loaded(reached) for end in self._effects(module)} - reached:
            reached |= self._follow(effects)
        names: dict[str, set[str]] = defaultdict(set)
        for module, name in reached:
            names[module] |= {name} if name != WHOLE else set(self.module(module).statements)
        return dict(names)

    def statements(self, module: str, name: str) -> list[_Statement]:
        found = self.module(module).statements
        return found.get(name, []) if name != WHOLE else [each for several in found.values() for each in several]

    def _read(self, name: str) -> _Module | None:
        """A module of ours or of the user's; None for all others."""
        path = _path(name, self._sources)
        if path is None:
            return None
        text = self._sources[path] if path in self._sources else path.read_text("utf-8") if path.is_file() else ""
        return _parsed(name, name if path.name == "__init__.py" else name.rpartition(".")[0], text)

    def _resolve(self, module: str, chain: Chain) -> list[Definition]:
        found = self._find(module, chain)
        return [(module, WHOLE)] if found is None else found

    def _find(self, name: str, chain: Chain) -> list[Definition] | None:
        """The definitions that `chain` leads to in the module `name`; None where its first name is not there."""
        if (name, chain) not in self._found:
            self._found[name, chain] = None  # for imports in a circle
            self._found[name, chain] = self._search(name, chain)
        return self._found[name, chain]

    def _search(self, name: str, chain: Chain) -> list[Definition] | None:
        module = self.module(name)
        if module is None:
            return []
        if not chain:
            return [(name, WHOLE)]
        first, rest = chain[0], chain[1:]
        late = [(name, "__getattr__")] if "__getattr__" in module.statements else []
        if first in module.statements or module.imports.get(first):
            found = [(name, first)] if first in module.statements else late if first in module.for_types else []
            ways = module.imports.get(first, [])
            return found + [end for base, path in ways for end in self._resolve(base, path + rest)]
        if self.module(f"{name}.{first}"):
            return late + self._resolve(f"{name}.{first}", rest)
        places = list(module.stars)
        if late:  # the name comes from a module that a string in this one names
            named = (base for text in module.strings for base in (text, f"{name}.{text.lstrip('.')}"))
            places += [base for base in named if base != name and self.module(base)]
        found = [ends for base in places if (ends := self._find(base, chain)) is not None]
        if found:
            return late + [end for ends in found for end in ends]
        return [] if first in UNNAMED else None

    def _leads_to(self, module: str, name: str) -> set[Definition]:
        statements = self.statements(module, name)
        found = {(module, defined) for statement in statements for defined in statement.names}
        for base, chain in (reference for statement in statements for reference in statement.references):
            found |= set(self._resolve(base, chain))
        if name == WHOLE:
            whole = self.module(module)
            ends = {end for ways in whole.imports.values() for way in ways for end in self._resolve(*way)}
            found |= {end for end in ends if end[1] != WHOLE}
            if "__getattr__" in whole.statements:
                found |= {(base, WHOLE) for base in self._submodules(module)}
        return found

    def _submodules(self, name: str) -> list[str]:
        path = _path(name, self._sources)
        files = path.parent.iterdir() if path and path.name == "__init__.py" else ()
        return [base for file in files if self.module(base := f"{name}.{file.stem}") and file.stem != "__init__"]

    def _follow(self, starts: Iterable[Definition]) -> set[Definition]:
        reached: set[Definition] = set()
        todo = list(starts)
        while todo:
            if (end := todo.pop()) not in reached:
                reached.add(end)
                todo += self._next(*end)
        return reached

    def _loaded(self, reached: set[Definition]) -> set[str]:
        """Every module that is imported, with all that it imports in turn."""
        loaded: set[str] = set()
        todo = [module for module, _ in reached]
        todo += [load for end in reached for statement in self.statements(*end) for load in statement.imports.loads]
        while todo:
            if (name := todo.pop()) not in loaded and (module := self.module(name)):
                loaded.add(name)
                todo += [*module.loads, name.rpartition(".")[0] or name]
        return loaded

    def _effects(self, name: str) -> set[Definition]:
        """What loading a module may change elsewhere: bare statements, and what decorators register."""
        found = {(name, EFFECTS)} if EFFECTS in self.module(name).statements else set()
        for statement in self.statements(name, WHOLE):
            chains = (chain for decorator in _decorators(statement.node) for chain in _chains(decorator))
            ends = {end for chain in chains for end in self._find(name, chain) or ()}
            foreign = any(module != name and self._is_object(module, given) for module, given in ends)
            if foreign or any(self._changes(*end) for end in self._follow(ends)):
                found |= {(name, defined) for defined in statement.names}
        return found

    def _is_object(self, module: str, name: str) -> bool:
        values = [getattr(statement.node, "value", None) for statement in self.statements(module, name)]
        return name != WHOLE and any(isinstance(value, OBJECT) for value in values)

    def _changes(self, module: str, name: str) -> bool:
        """Whether a function changes what is not its own: `TABLE[key] = ...`, `TABLE.append(...)`, `global TABLE`."""
        for statement in self.statements(module, name):
            for node in ast.walk(statement.node) if isinstance(statement.node, DEFINITION) else ():
                if isinstance(node, ast.Global):
                    return True
                stored = isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(node.ctx, ast.Load)
                method = node.func if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else None
                chain = _root(node) if stored else _root(method.value) if method and method.attr not in READING else ()
                ends = [end for way in statement.looked_up(chain) for end in self._resolve(*way)] if chain else []
                if any(stored or self._is_object(*end) for end in ends):
                    return True
        return False


def _starts(function: Any) -> Iterator[Reference]:
    if isinstance(function, str):
        module, _, name = function.partition(":")
        yield module, tuple(name.split("."))
    elif isinstance(function, functools.partial):
        for part in (function.func, *function.args, *function.keywords.values()):
            yield from _starts(part) if callable(part) else ()
    else:
        named = function if hasattr(function, "__qualname__") else getattr(function, "__wrapped__", type(function))
        spec = sys.modules["__main__"].__spec__ if named.__module__ == "__main__" else None
        yield spec.name if spec else named.__module__, (named.__qualname__.partition(".")[0],)


def _path(module: str, sources: Mapping[Path, str]) -> Path | None:
    """The file of a module of ours or of the user's; a folder without `__init__.py` has an empty one."""
    top, *rest = module.split(".")
    if top in sys.stdlib_module_names or not all(part.isidentifier() for part in (top, *rest)):
        return None
    if module == "__main__":
        file = getattr(sys.modules[module], "__file__", None)
        return Path(file).resolve() if file else None
    spec = getattr(sys.modules.get(top), "__spec__", None) or importlib.util.find_spec(top)
    if spec is None or (spec.origin is None and spec.submodule_search_locations is None):
        return None
    for folder in spec.submodule_search_locations or [str(spec.origin).removesuffix(".py")] * (not rest):
        base = Path(folder, *rest).resolve()
        if top not in OURS and {"site-packages", "dist-packages"} & set(base.parts):
            return None
        for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if path in sources or path.is_file():
                return path
        if base.is_dir():
            return base / "__init__.py"
    return None


def _defined(node: ast.stmt) -> Iterator[str]:
    """The names that a statement gives a value to."""
    if isinstance(node, DEFINITION):
        yield node.name
    elif isinstance(node, BLOCK):
        inside = list(ast.walk(node))
        yield from (inner.name for inner in inside if isinstance(inner, DEFINITION))
        yield from (inner.id for inner in inside if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store))
    else:
        for target in [*getattr(node, "targets", ()), *[getattr(node, f, None) for f in ("target", "name")]]:
            stored = (inner for inner in ast.walk(target) if isinstance(inner, ast.Name)) if target else ()
            yield from (inner.id for inner in stored if isinstance(inner.ctx, ast.Store))


def _changed(node: ast.stmt) -> Iterator[str]:
    """The names whose value a statement may change: `TABLE[key] = ...`, `f.defvjp(...)`, `@f.register`."""
    for target in getattr(node, "targets", [getattr(node, "target", None)]):
        yield from _root(target)[:1] if isinstance(target, ast.Subscript | ast.Attribute) else ()
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
        yield from _root(node.value.func)[:1]
    for decorator in _decorators(node):
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        yield from (inner.id for inner in ast.walk(decorator) if isinstance(inner, ast.Name) and inner is not called)


def _decorators(node: ast.stmt) -> list[ast.expr]:
    return getattr(node, "decorator_list", [])


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _root(node: ast.AST) -> Chain:
    """The name that `name.more[key].call(...)` starts from, with its attributes up to the first key or call."""
    names: list[str] = []
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            names, node = [node.attr, *names], node.value
        elif isinstance(node, ast.Subscript | ast.Call):
            names, node = [], node.value if isinstance(node, ast.Subscript) else node.func
        else:
            return ()
    return (node.id, *names)


def _chains(node: ast.AST) -> Iterator[Chain]:
    """All names in a piece of code, with the attributes that follow; not in the annotations of functions."""
    inner = node
    while isinstance(inner, ast.Attribute):
        inner = inner.value
    if isinstance(inner, ast.Name):
        yield _root(node)
    elif not isinstance(node, ast.arg):
        for field, value in ast.iter_fields(node):
            for child in (value if isinstance(value, list) else [value]) if field != "returns" else ():
                if isinstance(child, ast.AST):
                    yield from _chains(child)
