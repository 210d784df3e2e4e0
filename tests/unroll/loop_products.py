"""Counts the products and sums inside the time loops of a compiled program, from its HLO text.

    >>> hlo = jax.jit(jax.grad(loss)).lower(params).compile().as_text()                   # doctest: +SKIP
    >>> [product.result for product in loops_of(hlo).products]                            # doctest: +SKIP
    [(11, 5), (11, 12), (12, 5)]

The body of a `while` includes everything that it calls: fusions, calls, branches and nested loops.
"""

import re
from typing import NamedTuple

Shape = tuple[int, ...]


class Product(NamedTuple):
    """A `dot`, or a library call for a matrix product."""

    left: Shape
    right: Shape
    result: Shape

    def touches(self, sizes: set[int]) -> bool:
        """Whether any axis has one of these sizes."""
        return bool(sizes & {*self.left, *self.right, *self.result})

    def sums_over(self, size: int) -> bool:
        """Whether an axis of this size is in both factors and not in the result."""
        return size in self.left and size in self.right and size not in self.result


class Loops(NamedTuple):
    """The loops of a program.

    Attributes:
      count: the number of loops.
      products: the products inside, in the order of the text.
      sums: the shapes of the sums inside.
    """

    count: int
    products: list[Product]
    sums: list[Shape]


class _Instruction(NamedTuple):
    name: str
    shape: Shape | None  # None for a tuple
    code: str
    operands: list[str]
    line: str


_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .+ )?\{$")
_ARRAY = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = \w+\[([\d,]*)\](?:\{[^}]*\})? ([\w\-]+)\(([^)]*)\)")
_TUPLE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = \(.*\) ([\w\-]+)\(([^)]*)\)")
_CALLS = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|called_computations|true_computation|false_computation)"
    r"=\{?([^,}\s]+(?:, %[^,}\s]+)*)\}?"
)
_MATMUL = re.compile(r'custom_call_target="[^"]*(?:matmul|gemm|dot)[^"]*"', re.IGNORECASE)


def loops_of(hlo: str) -> Loops:
    """Parses the text of `compiled.as_text()`.

    Raises:
      ValueError: the shapes of a product's factors are not in the text.
    """
    computations = _computations(hlo)
    whiles = [each for lines in computations.values() for each in lines if each.code == "while"]
    inside: set[str] = set()
    waiting = [name for each in whiles for name in _called(each)]
    while waiting:
        name = waiting.pop()
        if name in computations and name not in inside:
            inside.add(name)
            waiting += [called for each in computations[name] for called in _called(each)]
    products, sums = [], []
    for name, instructions in computations.items():
        if name not in inside:
            continue
        shapes = {each.name: each.shape for each in instructions}
        for each in instructions:
            if each.code == "dot" or (each.code == "custom-call" and _MATMUL.search(each.line)):
                left, right = (shapes.get(operand) for operand in each.operands[:2])
                if left is None or right is None or each.shape is None:
                    raise ValueError(f"a product of unknown shapes: {each.line.strip()}")
                products.append(Product(left, right, each.shape))
            if each.code == "add" and each.shape is not None:
                sums.append(each.shape)
    return Loops(len(whiles), products, sums)


def _computations(hlo: str) -> dict[str, list[_Instruction]]:
    found: dict[str, list[_Instruction]] = {}
    current: list[_Instruction] = []
    for line in hlo.splitlines():
        if header := _COMPUTATION.match(line):
            current = found.setdefault(header[1], [])
        elif array := _ARRAY.match(line):
            shape = tuple(int(size) for size in array[2].split(",") if size)
            current.append(_Instruction(array[1], shape, array[3], _names(array[4]), line))
        elif several := _TUPLE.match(line):
            current.append(_Instruction(several[1], None, several[2], _names(several[3]), line))
    return found


def _names(operands: str) -> list[str]:
    """Of operands with or without their shapes in front: `f32[2,3]{1,0} %a, %b`."""
    return [part.split()[-1].lstrip("%") for part in re.split(r", (?=[%\w])", operands) if part.strip()]


def _called(instruction: _Instruction) -> list[str]:
    return [name.strip().lstrip("%") for names in _CALLS.findall(instruction.line) for name in names.split(",")]
