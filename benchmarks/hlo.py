"""What an optimized XLA program does, read from its text (``compiled.as_text()``).

The parser knows what the questions below need: computations, and of every instruction its
opcode, shapes with their layouts, operands, called computations and ``op_name``.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterator, Mapping, Sequence
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
SLICES = {"slice", "dynamic-slice", "gather"}  # read no more than they give

HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*)$")
# bf16[1,161,91]{2,0,1:T(8,128)(2,1)S(1)}: dtype, sizes, order from minor to major, tile.
SHAPE = re.compile(
    r"([a-z]\w*)\[([\d,]*)\](?:\{([\d,]*)(?::(?:T\(([\d,]+)\))?[^}]*)?\})?"
)
OPCODE = re.compile(r"\s*([\w-]+)\(")
NAME = re.compile(r"%([\w.-]+)")
CALLS = re.compile(r"(?:calls|body|to_apply)=%?([\w.-]+)")
CONDITION = re.compile(r"condition=%?([\w.-]+)")
NUMBER = re.compile(r"^\((\d+)\)")  # of a parameter; value of a constant
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
      operands: names; of a parameter its number, of a constant its value if that is a number.
      calls: the computations that it runs: of a fusion, a loop, a call or a reduction.
      op_name: where it comes from in the traced program.
      condition: of a loop, the computation that ends it; else "".
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    calls: tuple[str, ...]
    op_name: str
    condition: str

    @property
    def bytes(self) -> float:
        """Of all results."""
        return sum(shape.bytes for shape in self.shapes)


class Traffic(NamedTuple):
    """Number of collectives of one kind, bytes of their results, and of the largest one."""

    count: int = 0
    bytes: float = 0
    largest: float = 0


class Program(NamedTuple):
    """What an optimized program computes.

    Attributes:
      computations: by name; the last instruction of each is its result.
      lines: all instructions by name.
      entry: the computation that runs.
    """

    computations: Mapping[str, tuple[Instruction, ...]]
    lines: Mapping[str, Instruction]
    entry: str

    def executed(self, name: str | None = None) -> Iterator[Instruction]:
        """All instructions as often as they run, those of fusions too."""
        for instruction in self.computations.get(name or self.entry, ()):
            yield instruction
            for called in instruction.calls * self.repeats(instruction):
                yield from self.executed(called)

    def stored(self, name: str | None = None) -> Iterator[Instruction]:
        """Instructions whose results are arrays in memory: those outside of fusions."""
        for instruction in self.computations.get(name or self.entry, ()):
            yield instruction
            if instruction.opcode in ("while", "call", "conditional"):
                for called in instruction.calls * self.repeats(instruction):
                    yield from self.stored(called)

    def repeats(self, instruction: Instruction) -> int:
        """How often a loop that counts up from 0 runs its body; 1 for all else.

        Raises:
          ValueError: the condition of a loop has not one limit.
        """
        if not instruction.condition:
            return 1
        limits = {
            line.operands[0]
            for line in self.executed(instruction.condition)
            if line.opcode == "constant" and line.operands
        }
        if len(limits) != 1:
            raise ValueError(
                f"HLO text: expected one limit in the condition of {instruction.name}, found "
                f"{len(limits)}"
            )
        return int(limits.pop())

    def written(self, line: Instruction) -> float:
        """Bytes of its results; of an array that is updated in place, of what changes."""
        if line.opcode == "dynamic-update-slice":
            return self.lines[line.operands[1]].bytes
        if line.opcode == "fusion":
            return self.written(self.computations[line.calls[0]][-1])
        if line.opcode in ("tuple", "bitcast"):
            return sum(self.written(self.lines[name]) for name in line.operands)
        if line.opcode.startswith(LIBRARIES):
            return line.shapes[0].bytes  # others are memory for the library to work in
        return line.bytes

    def read(self, name: str, users: Sequence[Instruction]) -> float:
        """Bytes that instructions of one computation read of an array, the same ones once."""
        total, size = 0, self.lines[name].bytes
        for line in users:
            if line.opcode == "fusion":
                inner = self.computations[line.calls[0]]
                numbers = [str(i) for i, n in enumerate(line.operands) if n == name]
                for inside in inner:
                    if inside.opcode == "parameter" and inside.operands[0] in numbers:
                        total += self.read(inside.name, inner)
            elif name not in line.operands:
                continue
            elif line.opcode in SLICES:
                total += line.bytes
            elif line.opcode == "bitcast":
                total += self.read(line.name, users)
            # An array that is updated in place is not read.
            elif line.opcode != "dynamic-update-slice" or name != line.operands[0]:
                return size
        return min(total, size)


def parse(text: str) -> Program:
    """Parse the text of an optimized program.

    Raises:
      ValueError: there is no entry computation.
    """
    computations, lines, entry, current = {}, {}, None, None
    for row in text.splitlines():
        if header := HEADER.match(row):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and (found := INSTRUCTION.match(row)):
            line = lines[found[1]] = _instruction(*found.groups())
            current.append(line)
    if entry is None:
        raise ValueError("HLO text: found no line that begins with ENTRY")
    parts = {name: tuple(part) for name, part in computations.items()}
    return Program(parts, lines, entry)


def collectives(program: Program) -> dict[str, Traffic]:
    """What each kind of collective communicates."""
    found = {}
    for instruction in program.executed():
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
    return [
        (line, tuple(program.lines[name].shapes[0] for name in line.operands[:2]))
        for line in program.executed()
        if line.opcode in ("convolution", "dot") or line.opcode.startswith(LIBRARIES)
    ]


def moves(program: Program) -> list[Instruction]:
    """Copies and transposes of arrays in memory, fusions of nothing else included.

    Prefetches to another memory (copy-start) keep the layout and are left out.
    """

    def only_moves(line):
        if line.opcode != "fusion":
            return line.opcode in ("copy", "transpose")
        inner = {i.opcode for name in line.calls for i in program.executed(name)}
        return inner <= MOVES and bool(inner & {"copy", "transpose"})

    return [line for line in program.stored() if only_moves(line)]


def accessed(program: Program) -> float:
    """Bytes that instructions read and write: each array once, of slices their own bytes."""

    def traffic(line):
        arrays = [name for name in set(line.operands) if name in program.lines]
        return program.written(line) + sum(
            program.read(name, [line]) for name in arrays
        )

    runs = collections.Counter(
        line.name for line in program.stored() if line.opcode not in VIEWS
    )
    return sum(count * traffic(program.lines[name]) for name, count in runs.items())


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
    operands = NUMBER if opcode[1] in ("parameter", "constant") else NAME
    condition = CONDITION.search(attributes)
    return Instruction(
        name,
        (target or opcode)[1],
        shapes,
        tuple(operands.findall(arguments[:closing])),
        tuple(CALLS.findall(attributes)),
        op_name[1] if op_name else "",
        condition[1] if condition else "",
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
