"""What an optimized XLA program does, read from its text (``compiled.as_text()``).

The parser knows what the questions below need: computations, and of every instruction its
opcode, shapes with their layouts, operands, called computations and ``op_name``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

COLLECTIVES = (
    *("all-reduce", "all-gather", "all-to-all", "reduce-scatter"),
    *("collective-permute", "collective-broadcast"),
)
# Opcodes that give no value of their own.
MOVES = {"copy", "transpose", "bitcast", "reshape", "parameter", "tuple"}
MOVES.add("get-tuple-element")
# Results that are no array of their own, and prefetches between memories.
VIEWS = {"parameter", "tuple", "get-tuple-element", "bitcast", "while", "call"}
VIEWS |= {"conditional", "copy-start", "copy-done"}

HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*)$")
# bf16[1,161,91]{2,0,1:T(8,128)(2,1)S(1)}: dtype, sizes, order from minor to major, tile.
SHAPE = re.compile(
    r"([a-z]\w*)\[([\d,]*)\](?:\{([\d,]*)(?::(?:T\(([\d,]+)\))?[^}]*)?\})?"
)
OPCODE = re.compile(r"\s*([\w-]+)\(")
NAME = re.compile(r"%([\w.-]+)")
CALLS = re.compile(r"(?:calls|body|to_apply)=%?([\w.-]+)")
TARGET = re.compile(r'custom_call_target="([^"]*)"')
LIBRARIES = ("__cudnn$conv", "__cublas$")  # calls of convolutions and matrix products
OP_NAME = re.compile(r'op_name="([^"]*)"')


class Shape(NamedTuple):
    """Dtype, sizes, order of the axes from minor to major, and tile of an array."""

    dtype: str
    sizes: tuple[int, ...]
    order: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        """Of its values."""
        return math.prod(self.sizes) * _item(self.dtype)

    @property
    def padded_bytes(self) -> int:
        """Of its buffer, in which a TPU fills up tiles of the minor axes."""
        order = self.order or tuple(reversed(range(len(self.sizes))))
        sizes = [self.sizes[axis] for axis in order]
        for position, side in enumerate(reversed(self.tile)):
            if position < len(sizes):
                sizes[position] = -(-sizes[position] // side) * side
        return math.prod(sizes) * _item(self.dtype)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.sizes))}]"


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
      name: unique in the program.
      opcode: e.g. "fusion"; of a call of a library the name of its function.
      shapes: of its results.
      operands: names.
      calls: the computations that it runs: of a fusion, a loop, a call or a reduction.
      op_name: where it comes from in the traced program.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    calls: tuple[str, ...]
    op_name: str


class Traffic(NamedTuple):
    """Number of collectives of one kind, bytes of their results, and of the largest one."""

    count: int = 0
    bytes: float = 0
    largest: float = 0


class Program(NamedTuple):
    """Computations by name, and the name of the one that runs."""

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str

    def executed(self, name: str | None = None) -> Iterator[tuple[str, Instruction]]:
        """All instructions as they run, those of fusions too; a loop counts once.

        Yields pairs of the name of the computation and the instruction.
        """
        name = name or self.entry
        for instruction in self.computations.get(name, ()):
            yield name, instruction
            for called in instruction.calls:
                yield from self.executed(called)

    def stored(self, name: str | None = None) -> Iterator[Instruction]:
        """Instructions whose results are arrays in memory: those outside of fusions."""
        for instruction in self.computations.get(name or self.entry, ()):
            yield instruction
            if instruction.opcode in ("while", "call", "conditional"):
                for called in instruction.calls:
                    yield from self.stored(called)


def parse(text: str) -> Program:
    """Parse the text of an optimized program.

    Raises:
      ValueError: there is no entry computation.
    """
    computations, entry, current = {}, None, None
    for line in text.splitlines():
        if header := HEADER.match(line):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and (found := INSTRUCTION.match(line)):
            current.append(_instruction(*found.groups()))
    if entry is None:
        raise ValueError("HLO text: found no line that begins with ENTRY")
    return Program({name: tuple(lines) for name, lines in computations.items()}, entry)


def collectives(program: Program) -> dict[str, Traffic]:
    """What each kind of collective communicates."""
    found = {}
    for _, instruction in program.executed():
        kind = instruction.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            shapes = instruction.shapes
            if instruction.opcode != kind and len(shapes) > 1:
                shapes = shapes[len(shapes) // 2 :]  # the first half are the operands
            size = sum(shape.bytes for shape in shapes)
            count, total, largest = found.get(kind, Traffic())
            found[kind] = Traffic(count + 1, total + size, max(largest, size))
    return found


def products(program: Program) -> list[tuple[Instruction, tuple[Shape, ...]]]:
    """Convolutions and matrix products with the shapes of their operands."""
    shapes = {
        name: {line.name: line.shapes for line in lines}
        for name, lines in program.computations.items()
    }
    return [
        (line, tuple(shapes[name][operand][0] for operand in line.operands[:2]))
        for name, line in program.executed()
        if line.opcode in ("convolution", "dot") or line.opcode.startswith(LIBRARIES)
    ]


def moves(program: Program) -> list[Instruction]:
    """Copies and transposes of arrays in memory, fusions of nothing else included.

    Prefetches to another memory (copy-start) keep the layout and are left out.
    """

    def only_moves(line):
        if line.opcode != "fusion":
            return line.opcode in ("copy", "transpose")
        inner = {i.opcode for name in line.calls for _, i in program.executed(name)}
        return inner <= MOVES and bool(inner & {"copy", "transpose"})

    return [line for line in program.stored() if only_moves(line)]


def accessed(program: Program) -> float:
    """Bytes that instructions read and write, each of their arrays once and whole."""
    shapes = {
        line.name: line.shapes
        for lines in program.computations.values()
        for line in lines
    }
    return sum(
        shape.bytes
        for line in program.stored()
        if line.opcode not in VIEWS
        for array in (line.name, *set(line.operands))
        for shape in shapes.get(array, ())
    )


def _instruction(name: str, rest: str) -> Instruction:
    end = _closing(rest) if rest.startswith("(") else re.match(r"\S*", rest).end()
    shapes = tuple(
        Shape(dtype, *(_numbers(part) for part in parts))
        for dtype, *parts in SHAPE.findall(rest[:end])
    )
    opcode = OPCODE.match(rest, end)
    arguments = rest[opcode.end() - 1 :]
    closing = _closing(arguments)
    attributes = arguments[closing:]
    op_name = OP_NAME.search(attributes)
    target = TARGET.search(attributes) if opcode[1] == "custom-call" else None
    return Instruction(
        name,
        (target or opcode)[1],
        shapes,
        tuple(NAME.findall(arguments[:closing])),
        tuple(CALLS.findall(attributes)),
        op_name[1] if op_name else "",
    )


def _closing(text: str) -> int:
    """Position after the parenthesis that closes the first one."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return position + 1
    raise ValueError(f"HLO text: a parenthesis is not closed in {text[:80]!r}")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def _item(dtype: str) -> float:
    """Bytes of a value: of pred, s32, bf16, f8e4m3fn, c64; 0 of a token."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) / 8 if bits else float(dtype == "pred")
