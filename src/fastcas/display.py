"""Facts as lines for people: of layouts, images and trees. Programs take the JSON."""

from __future__ import annotations

import sys

from fastcas.console import count, human, on_terminal, printable, say
from fastcas.facts import kind_of, short

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# Deeper than this the branches of a tree aren't drawn any further.
MOST_BRANCHES = 10

# The settings of a config; with such short labels a digest fits into 80 columns.
_LABELS = {
    "User": "user",
    "ExposedPorts": "ports",
    "Env": "env",
    "Entrypoint": "entry",
    "Cmd": "cmd",
    "Volumes": "volumes",
    "WorkingDir": "workdir",
    "Labels": "label",
}


def say_facts(facts: dict[str, Any], indent: str = "") -> None:
    """Each fact on a line, lists and mappings indented below theirs."""
    for name, value in facts.items():
        if isinstance(value, dict):
            if value:
                say(f"{indent}{name}:")
                say_facts(value, indent + "  ")
        elif isinstance(value, list):
            say(f"{indent}{name}: {len(value)}")
            for item in value:
                parts = item.values() if isinstance(item, dict) else [item]
                say(f"{indent}  {printable('  '.join(map(_text, parts)))}")
        elif name in ("size", "total"):
            exact = f"{value} bytes"
            say(f"{indent}{name}: {exact if value < 1024 else f'{human(value)} ({exact})'}")
        else:
            say(f"{indent}{name}: {printable(_text(value))}")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def say_image(facts: dict[str, Any]) -> None:
    """What ``image_facts`` found, for a terminal of 80 columns."""
    rows = [("name", facts["name"]), ("digest", facts["digest"])]
    kind = kind_of(facts["mediaType"])
    rows.append(("type", f"{kind}, {facts['artifactType']}" if "artifactType" in facts else kind))
    rows += [(name, facts[name]) for name in ("platform", "created", "author") if name in facts]
    if "subject" in facts:
        rows.append(("subject", short(facts["subject"]["digest"])))
    if "total" in facts:
        rows.append(("size", f"{human(facts['total'])} in {count(len(facts['layers']), 'layer')}"))
    for name, value in facts.get("run", {}).items():
        rows += [(_LABELS[name], text) for text in _settings(value)]
    rows += [("note", f"{key}={value}") for key, value in facts.get("annotations", {}).items()]
    if not facts["stored"]:
        rows.append(("", "not stored"))
    if "problem" in facts:
        rows.append(("problem", facts["problem"]))
    before = None
    for name, text in rows:
        say(f"{'' if name == before else name:8} {printable(str(text))}".rstrip())
        before = name
    if facts.get("layers"):
        say("layers")
        for number, layer in enumerate(facts["layers"], 1):
            say(f"{number:4}  {_part(layer)}")
    if facts.get("history"):
        say("history")
        number = 0
        for step in facts["history"]:
            number += not step["emptyLayer"]
            place = "-" if step["emptyLayer"] else str(number)
            when = (step["created"] or "")[:10]
            what = printable(step["createdBy"] or step["comment"] or "")
            room = 80 - 6 - (len(when) + 2 if when else 0)
            what = what if len(what) <= room else f"{what[: room - 1]}…"
            say("  ".join(part for part in (f"{place:>4}", when, what) if part))


def _settings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{key}={text}" if isinstance(text, str) else key for key, text in value.items()]
    if isinstance(value, list):
        import shlex

        texts = [str(text) for text in value]
        return texts if any("=" in text for text in texts) else [shlex.join(texts)]
    return [str(value)]


def _part(facts: dict[str, Any]) -> str:
    kind = facts.get("artifactType") or kind_of(facts["mediaType"])
    words = [short(facts["digest"]), f"{human(facts['size']):>8}", kind]
    words += [str(facts[key]) for key in ("platform", "title") if key in facts]
    if not facts["stored"]:
        words.append("(not stored)")
    return printable("  ".join(words))


def say_tree(nodes: Iterable[dict[str, Any]]) -> None:
    """What ``tree_facts`` found, drawn; in a pipe, digests are whole and sizes exact."""
    terminal = on_terminal(sys.stdout)
    tree: list[dict[str, Any]] = []
    for node in nodes:
        if node["depth"] == 0:
            _draw(tree, terminal)
            tree = []
        tree.append(node)
    _draw(tree, terminal)


def _draw(tree: list[dict[str, Any]], terminal: bool) -> None:
    # Read from the end, a node is the last child of its parent if none of its depth came since.
    open_depths: set[int] = set()
    branches: list[str] = []
    for node in reversed(tree):
        depth = node["depth"]
        drawn = min(depth, MOST_BRANCHES)
        lines = "".join("│  " if level in open_depths else "   " for level in range(1, drawn))
        corner = "├─ " if drawn in open_depths else "└─ "
        branches.append(f"{lines}{corner}" if depth else "")
        open_depths = {level for level in open_depths if level < drawn} | {drawn}
    for node, branch in zip(tree, reversed(branches), strict=True):
        say(f"{branch}{_node(node, terminal)}")


def _node(node: dict[str, Any], terminal: bool) -> str:
    words = [str(node["name"])] if "name" in node and node["depth"] == 0 else []
    words.append(node.get("artifactType") or kind_of(node["mediaType"]))
    if "platform" in node:
        words.append(node["platform"])
    words.append(short(node["digest"]) if terminal else node["digest"])
    words.append(human(node["size"]) if terminal else str(node["size"]))
    if "title" in node:
        words.append(node["title"])
    if not node["stored"]:
        words.append("(not stored)")
    if node["depth"] > MOST_BRANCHES:
        words.append(f"(level {node['depth']})")
    return printable("  ".join(words))
