"""Which code a row of numbers depends on, found in the code itself.

`code_sha256(function)` hashes the syntax trees, without comments, docstrings and layout, of every top-level definition
(function, class, assignment) that `function` can reach by names and imports. A definition counts whole, a file does
not: a drawing function beside the measuring one leaves the hash as it is.

A name leads to its definition through imports at the top or inside functions, star imports, packages that re-export,
and packages whose `__getattr__` loads names late. A statement or decorator that changes a name of its own module
(`f.defvjp(...)`, `TABLE[key] = ...`, `@f.register`) belongs to that name. What may change anything else (a bare call, a
loop, a decorator that writes to a table) counts wherever its module is imported.

Where the code does not say, more counts: all of a module that is used as a value (`getattr(module, name)`), or in which
a name is not found. What is left out:
  * packages in site-packages and the standard library: their versions are recorded beside the hash;
  * what only a type checker reads: annotations of functions are hashed but not followed;
  * what the code does not name: modules with a computed name, classes that register themselves (`__init_subclass__`),
    functions among the arguments of a call;
  * data files: the loaders in `experiments.data` check them against a SHA-256 in the code, which counts.
"""

import ast
import builtins
import functools
import hashlib
import importlib.util
import itertools
import symtable
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Chain = tuple[str, ...]  # names joined by dots: `theory.linear_rate` is ("theory", "linear_rate")
Reference = tuple[str, Chain]  # a module, and what is looked up in it
Definition = tuple[str, str]  # a module, and a name that its top level defines

OURS = ("rnnjax", "experiments", "benchmarks", "rnnjax_lab")
INSTALLED = "rnnjax_lab."  # where a wheel has experiments and benchmarks; their hashes are those of a clone
EFFECTS = "<module>"  # stands for the statements of a module that define nothing
WHOLE = "*"
DEFINITION = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
BLOCK = ast.If | ast.For | ast.While | ast.With | ast.Try | ast.Match
CHANGEABLE = ast.Call | ast.Dict | ast.List | ast.Set | ast.DictComp | ast.ListComp | ast.SetComp


def code_sha256(function: Callable[..., Any] | str, sources: Mapping[Path, str] | None = None) -> str:
    """The hash of all code that `function` can reach.

    Args:
      function: a function (jitted, wrapped or partial ones too) or a class, or "module:name" for either.
      sources: texts to read in place of those of the files, by path. Without them, a file is read once per process.
    Raises:
      ValueError: the source of `function` is not found, for example because it was typed into a console.
    """
    return (_on_disk() if sources is None else _Code(sources)).sha256(tuple(_starts(function)))


def reach(function: Callable[..., Any] | str, sources: Mapping[Path, str] | None = None) -> dict[str, set[str]]:
    """The names of the top-level definitions that count for `function`, by module ("<module>": its other statements).

    Arguments and errors are those of `code_sha256`.
    """
    return (_on_disk() if sources is None else _Code(sources)).reach(tuple(_starts(function)))


class _Imports:
    """Where imported names come from, and which modules are loaded for them."""

    def __init__(self, nodes: Iterable[ast.AST], module: str, package: str) -> None:
        self.names: dict[str, list[Reference]] = defaultdict(list)
        self.loads: set[str] = set()
        for node in nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    self.names[alias.asname or top].append((alias.name if alias.asname else top, ()))
                    self.loads.add(alias.name)
            elif isinstance(node, ast.ImportFrom):
                if node.level > package.count(".") + 1:
                    continue  # beyond the top of a clone; it is there in a wheel
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                self.loads |= {base} | {f"{base}.{alias.name}" for alias in node.names}
                for alias in node.names:
                    own = (base, alias.name) == (module, alias.asname or alias.name)  # a package's own submodule
                    way = (f"{base}.{alias.name}", ()) if own else (base, (alias.name,))
                    self.names[alias.asname or alias.name].append(way)


class _Statement:
    """One statement at the top level of a module; `names` are those that it defines."""

    def __init__(self, node: ast.stmt, lines: list[str], module: str, package: str) -> None:
        self.node, self.names = node, list(_defined(node))
        self._lines, self._module, self._package = lines, module, package

    @functools.cached_property
    def digest(self) -> bytes:
        for node in ast.walk(self.node):
            if isinstance(body := getattr(node, "body", None), list):  # without docstrings
                body[:] = [line for line in body if not _is_text(line)] or [ast.Pass()]
        return hashlib.sha256(ast.dump(self.node).encode()).digest()

    @functools.cached_property
    def imports(self) -> _Imports:
        return _Imports(ast.walk(self.node), self._module, self._package)

    @functools.cached_property
    def references(self) -> set[Reference]:
        calls = [node for node in ast.walk(self.node) if isinstance(node, ast.Call)]
        loaded = [call.args[0] for call in calls if call.args and _root(call.func)[-1:] == ("import_module",)]
        whole = {(str(each.value), ()) for each in loaded if isinstance(each, ast.Constant)}
        return whole | {found for chain in _chains(self.node) for found in self._looked_up(chain)}

    @functools.cached_property
    def _global(self) -> set[str]:
        """The names that are looked up in the module, not among a function's variables."""
        first = min([self.node.lineno, *[decorator.lineno for decorator in _decorators(self.node)]])
        lines = self._lines[first - 1 : self.node.end_lineno]
        text = ast.unparse(self.node) if self.node.col_offset else "\n".join(lines)

        def names(table: symtable.SymbolTable) -> Iterator[str]:
            top = table.get_type() == "module"
            yield from (symbol.get_name() for symbol in table.get_symbols() if top or symbol.is_global())
            for inner in table.get_children():
                yield from names(inner)

        return set(names(symtable.symtable(text, self._module, "exec")))

    def _looked_up(self, chain: Chain) -> Iterator[Reference]:
        for module, path in self.imports.names.get(chain[0], ()):
            yield module, path + chain[1:]
        if chain[0] in self._global:
            yield self._module, chain


class _Module:
    """The top level of one file: which statements define, or change, which name."""

    def __init__(self, module: str, package: str, text: str) -> None:
        self.statements: dict[str, list[_Statement]] = defaultdict(list)
        self._where = text.splitlines(), module, package
        self._tree = ast.parse(text)
        self.imports = _Imports(self._read(self._tree.body), module, package)

    def _read(self, body: list[ast.stmt]) -> Iterator[ast.AST]:
        """Sorts statements by name, and yields the imports."""
        for node in body:
            test = ast.unparse(node.test).removeprefix("typing.") if isinstance(node, ast.If) else ""
            if isinstance(node, ast.If) and test == "TYPE_CHECKING":
                yield from self._read(node.body + node.orelse)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                yield node
            elif not (_is_text(node) or test.startswith("__name__ == ")):
                statement = _Statement(node, *self._where)
                names = {*statement.names, *(name for name in _changed(node) if name in self.statements)}
                for name in names | {EFFECTS} if isinstance(node, BLOCK) or not names else names:
                    self.statements[name].append(statement)
                yield from ast.walk(node) if isinstance(node, BLOCK) else ()

    @functools.cached_property
    def strings(self) -> set[str]:
        values = {getattr(node, "value", None) for node in ast.walk(self._tree) if isinstance(node, ast.Constant)}
        return {value for value in values if isinstance(value, str)}


@functools.lru_cache(maxsize=2048)
def _parsed(module: str, package: str, text: str) -> _Module:
    return _Module(module, package, text)


class _Code:
    """The modules of this project and of the user, and what leads from one definition to another."""

    def __init__(self, sources: Mapping[Path, str]) -> None:
        self._sources = {path.resolve(): text for path, text in sources.items()}
        self._found: dict[Reference, list[Definition] | None] = {}
        self._module: Callable[[str], Any] = functools.cache(self._read)
        self._next = functools.cache(self._leads_to)
        self._effects = functools.cache(self._effects_of)
        self.sha256 = functools.cache(self._sha256)

    def _sha256(self, starts: tuple[Reference, ...]) -> str:
        total = hashlib.sha256()
        reached = {module.removeprefix(INSTALLED): (module, names) for module, names in self.reach(starts).items()}
        for known, (module, names) in sorted(reached.items()):
            for name in sorted(names):
                total.update(f"\0{known}:{name}\0".encode())
                total.update(b"".join(statement.digest for statement in self._statements(module, name)))
        return total.hexdigest()

    def reach(self, starts: tuple[Reference, ...]) -> dict[str, set[str]]:
        reached = self._follow(end for start in starts for end in self._resolve(*start))
        if not reached:
            name = ":".join([starts[0][0], ".".join(starts[0][1])])
            raise ValueError(f"the source of {name} is not found; put it into a module of your own.")
        while effects := {end for module in self._loaded(reached) for end in self._effects(module)} - reached:
            reached |= self._follow(effects)
        names: dict[str, set[str]] = defaultdict(set)
        for module, name in reached:
            names[module] |= {name} if name != WHOLE else set(self._module(module).statements)
        return dict(names)

    def _follow(self, starts: Iterable[Definition]) -> set[Definition]:
        reached: set[Definition] = set()
        todo = list(starts)
        while todo:
            if (end := todo.pop()) not in reached:
                reached.add(end)
                todo += self._next(*end)
        return reached

    def _leads_to(self, module: str, name: str) -> set[Definition]:
        statements = self._statements(module, name)
        found = {(module, defined) for statement in statements for defined in statement.names}
        found |= {end for statement in statements for way in statement.references for end in self._resolve(*way)}
        if name == WHOLE:
            ways = [way for several in self._module(module).imports.names.values() for way in several]
            found |= {end for way in ways for end in self._resolve(*way) if end[1] != WHOLE}
            found |= {(late, WHOLE) for late in self._late(module)}
        return found

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
        module = self._module(name)
        if module is None or not chain:
            return [(name, WHOLE)] if module else []
        first, rest = chain[0], chain[1:]
        found = [(name, first)] if first in module.statements else []
        ways = [(base, path + rest) for base, path in module.imports.names.get(first, ())]
        if found or ways:
            return found + [end for way in ways for end in self._resolve(*way)]
        late = [(name, "__getattr__")] if "__getattr__" in module.statements else []
        if self._module(f"{name}.{first}"):
            return late + self._resolve(f"{name}.{first}", rest)
        places = [base for base, _ in module.imports.names.get("*", ())] + self._late(name)
        ends = [found for base in places if (found := self._find(base, chain)) is not None]
        if ends:
            return [*late, *itertools.chain(*ends)]
        is_built_in = hasattr(builtins, first) or first.startswith("__")
        return [] if is_built_in and first not in ("eval", "exec", "globals") else None

    def _late(self, name: str) -> list[str]:
        """The modules that the strings of a module with `__getattr__` name."""
        module = self._module(name)
        strings = module.strings if "__getattr__" in module.statements else ()
        named = {base for text in strings for base in (text, f"{name}.{text.lstrip('.')}")} - {name}
        return sorted(base for base in named if self._module(base))

    def _statements(self, module: str, name: str) -> list[_Statement]:
        found = self._module(module).statements
        return found.get(name, []) if name != WHOLE else list(itertools.chain(*found.values()))

    def _loaded(self, reached: set[Definition]) -> set[str]:
        """Every module that is imported for this code, with those that these import in turn."""
        loaded: set[str] = set()
        todo = {module for module, _ in reached}
        todo |= {load for end in reached for statement in self._statements(*end) for load in statement.imports.loads}
        while todo:
            if (name := todo.pop()) not in loaded and (module := self._module(name)):
                loaded.add(name)
                todo |= {*module.imports.loads, name.rpartition(".")[0] or name}
        return loaded

    def _effects_of(self, name: str) -> set[Definition]:
        """What loading a module may change elsewhere: bare statements, and what decorators may register."""
        own = self._module(name).statements
        found = {(name, EFFECTS)} if EFFECTS in own else set()
        for statement in self._statements(name, WHOLE):
            ends: list[Definition] = []
            for called, given in map(_touched, _decorators(statement.node)):
                foreign = [chain for chain in (called, *given) if chain == called[:1] or chain[0] not in own]
                ends += [end for chain in foreign for end in self._find(name, chain) or ()]
            if any(_may_change(each.node) for end in self._follow(ends) for each in self._statements(*end)):
                found |= {(name, defined) for defined in statement.names}
        return found

    def _read(self, name: str) -> _Module | None:
        """A module of ours or of the user's, None for others; a folder without `__init__.py` is as if it had one."""
        top, *rest = name.split(".")
        if top in sys.stdlib_module_names or not all(part.isidentifier() for part in (top, *rest)):
            return None
        places = [Path(place, *rest).resolve() for place in _places(top)]
        if top not in OURS:
            places = [place for place in places if not {"site-packages", "dist-packages"} & set(place.parts)]
        for place in places:
            for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
                if path in self._sources or path.is_file():
                    text = self._sources[path] if path in self._sources else path.read_text("utf-8")
                    return _parsed(name, name if path.name == "__init__.py" else name.rpartition(".")[0], text)
        return _parsed(name, name, "") if any(place.is_dir() for place in places) else None


@functools.cache
def _on_disk() -> _Code:
    return _Code({})


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


def _places(top: str) -> list[str]:
    """Where a top-level module or package lies, without `.py`; a script that was started is `__main__`."""
    loaded = sys.modules.get(top)
    spec = getattr(loaded, "__spec__", None) or (importlib.util.find_spec(top) if top != "__main__" else None)
    if spec is not None and spec.submodule_search_locations:
        return list(spec.submodule_search_locations)
    file = spec.origin if spec else getattr(loaded, "__file__", None)
    return [file.removesuffix(".py")] if file else []


def _defined(node: ast.stmt) -> Iterator[str]:
    """The names that a statement gives a value to."""
    if isinstance(node, DEFINITION):
        yield node.name
        return
    targets = [*getattr(node, "targets", ()), getattr(node, "target", None), getattr(node, "name", None)]
    for inner in (
        inner for part in ([node] if isinstance(node, BLOCK) else targets) if part for inner in ast.walk(part)
    ):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            yield inner.id
        elif isinstance(inner, DEFINITION):
            yield inner.name


def _changed(node: ast.stmt) -> Iterator[str]:
    """The names whose value a statement may change: `TABLE[key] = ...`, `f.defvjp(...)`, `@f.register`."""
    for target in getattr(node, "targets", [getattr(node, "target", None)]):
        parts = ast.walk(target) if target else ()
        stored = [part for part in parts if isinstance(part, ast.Subscript | ast.Attribute)]
        yield from (_root(part)[0] for part in stored if not isinstance(part.ctx, ast.Load) and _root(part))
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
        yield from _root(node.value.func)[:1]
    for called, given in map(_touched, _decorators(node)):
        yield from (chain[0] for chain in (called, *given) if chain != called[:1])


def _touched(decorator: ast.expr) -> tuple[Chain, list[Chain]]:
    """What a decorator may change: `f` and [`table`] for `@f(table)`, `f.add` and [] for `@f.add`."""
    call = decorator if isinstance(decorator, ast.Call) else ast.Call(decorator, [], [])
    parts = [*call.args, *(keyword.value for keyword in call.keywords)]
    chains = [_root(part) for part in parts if isinstance(part, ast.Name | ast.Attribute)]
    return _root(call.func), [chain for chain in chains if chain]


def _may_change(node: ast.stmt) -> bool:
    """Whether a decorator that reaches this statement may leave a trace in it, or by it."""
    if isinstance(node, ast.FunctionDef):
        return any(isinstance(inner, ast.Global) for inner in ast.walk(node))
    parts = node.body if isinstance(node, ast.ClassDef) else [node]
    return any(isinstance(getattr(part, "value", None), CHANGEABLE) for part in parts)


def _decorators(node: ast.stmt) -> list[ast.expr]:
    return getattr(node, "decorator_list", [])


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _root(node: ast.AST) -> Chain:
    """The name that `name.more[key].call(...)` starts from, with its attributes up to the first key or call."""
    names: Chain = ()
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            names, node = (node.attr, *names), node.value
        elif isinstance(node, ast.Subscript | ast.Call):
            names, node = (), node.value if isinstance(node, ast.Subscript) else node.func
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
