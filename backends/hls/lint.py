"""Hold emitted C++ to what tools for FPGAs take: checks on the text, made before a project is written and in tests.

Loops have bounds known beforehand and one way out; every stream is written by one process and read by one; the depth
of a FIFO is the same in its pragma and in simulation; every memory port says how deep it is; there are no floats, and
no memory from the heap. What is unrolled stays within a limit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from qcc.errors import Problem

FORBIDDEN = {
    r"\b(float|double)\b": "computes with floats",
    r"\b(malloc|new|delete|free)\b": "takes memory from the heap",
    r"\bwhile\s*\(": "has a loop without a static bound",
    r"\b(goto|break|continue)\b": "leaves a loop by a second way",
    r"\bstd::": "uses the standard library",
}
"""What processes and templates may not contain, and what it would be."""

UNROLL_LIMIT = 4096
"""Copies of a loop's body that unrolling may make."""

LOOP = re.compile(r"\bfor\s*\(\s*\w+ (\w+) = ([^;]+);\s*([^;]+);\s*([^)]+)\)")
PROCESS = re.compile(r'QCC_PROCESS\("(\w+)", (\w+)\(([^)]*)\)\)')
STREAM = re.compile(
    r'hls::stream<.*> (\w+)\("(\w+)"\);\n#pragma HLS STREAM variable=(\w+) depth=(\d+)\n\s*QCC_DEPTH\((\w+), (\d+)\)'
)


def lint(texts: Mapping[str, str]) -> list[Problem]:
    """Return everything wrong with the files of a project, by path -> text; testbench and scripts are not looked at."""
    problems: list[Problem] = []
    for path, text in texts.items():
        if path.startswith("src/"):
            problems += _check_text(path, without_comments(text))
    tops = [text for path, text in texts.items() if path.startswith("src/") and path.endswith(".cpp")]
    for text in tops:
        problems += check_region(text, texts)
    return problems


def without_comments(text: str) -> str:
    """Blank out comments and texts in quotes other than those of processes."""
    text = re.sub(r"/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)
    return re.sub(r"//[^\n]*", "", text)


def _check_text(path: str, text: str) -> list[Problem]:
    problems: list[Problem] = []
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{path}:{number}"
        problems += [Problem(where, what) for pattern, what in FORBIDDEN.items() if re.search(pattern, line)]
        if "for (" in line:
            problems += _check_loop(where, line)
        if "m_axi" in line and "depth=" not in line:
            problems.append(Problem(where, "has a memory port without depth"))
    return problems


def _check_loop(where: str, line: str) -> list[Problem]:
    found = LOOP.search(line)
    if found is None:
        return [Problem(where, f"has a loop of another form: {line.strip()}")]
    name, _, condition, step = found.groups()
    if re.match(rf"{name} [<>]=? ", condition) and name in step:
        return []
    return [Problem(where, f"has a loop whose bound is not static: {line.strip()}")]


def check_region(text: str, texts: Mapping[str, str]) -> list[Problem]:
    """Return what is wrong with the dataflow region: streams with several writers or readers, depths that differ."""
    problems: list[Problem] = []
    streams = {found[1]: found for found in STREAM.findall(text) for found in [("", *found)]}
    for name, found in streams.items():
        _, variable, label, pragma, depth, bounded, simulated = found
        if len({variable, label, pragma, bounded}) > 1 or depth != simulated:
            problems.append(Problem(f"stream {name}", "differs between declaration, pragma and simulation"))
        if int(depth) < 1:
            problems.append(Problem(f"stream {name}", f"has depth {depth}"))
    if len(streams) != text.count("hls::stream<") - _ports(text):
        problems.append(Problem("the region", "declares a stream without a STREAM pragma"))
    uses: Counter[str] = Counter()
    for _, function, arguments in PROCESS.findall(text):
        names = [one.strip() for one in arguments.split(",") if one.strip()]
        if f"src/layers/{function}.h" not in texts:
            problems.append(Problem(function, "is a process without a header"))
        uses.update(names)
    for name in streams:
        if uses[name] != 2:
            problems.append(
                Problem(f"stream {name}", f"is named by {uses[name]} processes; a writer and a reader are two")
            )
    if "#pragma HLS DATAFLOW" not in text:
        problems.append(Problem("the region", "has no DATAFLOW pragma"))
    return problems


def _ports(text: str) -> int:
    """Count the streams in the argument list of the top function."""
    head = re.search(r"\nvoid \w+\(([^{]*)\) \{", text)
    return head[1].count("hls::stream<") if head else 0


def check_unrolling(name: str, products: int) -> list[Problem]:
    """Return what is wrong with the copies that unrolling a unit makes."""
    if products <= UNROLL_LIMIT:
        return []
    return [Problem(name, f"unrolls {products} products", f"fold it to at most {UNROLL_LIMIT}")]
