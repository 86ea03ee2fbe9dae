"""Reading YAML as it is written: what two readers would read differently is refused.

YAML 1.1 reads 010 as 8 and 1:30 as 90, and of a key that stands twice it drops the first value
without a word. Needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_NUMBER_WITH_EXPONENT = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+")
_INT, _FLOAT, _TIMESTAMP, _MERGE = (
    f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp", "merge")
)


# As many values as a document may have with every alias written out: ten lines of aliases of
# aliases stand for more than the memory holds.
MOST_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses what it would otherwise guess."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _values(node, {}) > MOST_VALUES:
            raise _error(
                node, f"with its aliases written out it has more than {MOST_VALUES} values"
            )
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        # What the library raises for a value that is none of its tag: !!bool x, or !!int ''.
        except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError) as error:
            kind, is_word = node.tag.rpartition(":")[2], isinstance(node, yaml.ScalarNode)
            what = f"{node.value!r:.60}" if is_word else "what stands here"
            raise _error(node, f"{what} is no {kind}") from error

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        node = super().compose_node(parent, index)
        if node is not None and node.end_mark is None:  # it is not at its end yet
            raise _error(node, "what stands here holds an alias of itself")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise _error(key_node, "a key must be a word")
            if key in seen:
                raise _error(key_node, f"the key {key!r} stands here a second time: keep one")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if _LEADING_ZERO.fullmatch(node.value):
            raise _error(
                node,
                f"{node.value} is read as a number to the base 8 by some and to the base 10 by "
                "others: write it without the leading zero, or in quotes",
            )
        _refuse_minutes(node)
        return super().construct_yaml_int(node)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        _refuse_minutes(node)
        return super().construct_yaml_float(node)


_Loader.add_constructor(_INT, _Loader.construct_yaml_int)
_Loader.add_constructor(_FLOAT, _Loader.construct_yaml_float)
# A date is text here, and 1e-3 is a number, though YAML 1.1 wants a point in it.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_FLOAT, _NUMBER_WITH_EXPONENT, list("-+.0123456789"))


def read_yaml(text: str) -> Any:
    """Read one YAML document.

    Parameters
    ----------
    text
        A recipe, or a value of the command line.

    Returns
    -------
    object
        Mappings, lists, text, numbers, booleans and None.

    Raises
    ------
    ValueError
        It is no YAML, or it holds what readers read differently; the line is named.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a safe loader, made stricter
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f"line {mark.line + 1}: "
        raise ValueError(f"{where}{error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node stands for; each node is counted once, however often named."""
    if id(node) not in known:
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            inner = node.value
        elif isinstance(node, yaml.MappingNode):
            inner = [one for pair in node.value for one in pair]
        known[id(node)] = 1 + sum(_values(one, known) for one in inner)
    return known[id(node)]


def _refuse_minutes(node: yaml.ScalarNode) -> None:
    if ":" in node.value:
        raise _error(
            node,
            f"{node.value} is read as a time in seconds by some and as text by others: write the "
            "number, or put it in quotes",
        )


def _error(node: yaml.Node, message: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=message, problem_mark=node.start_mark)
