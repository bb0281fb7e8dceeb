"""Read YAML that strangers wrote: policies and configurations.

Text that is not YAML is a `yaml.YAMLError`; so is YAML that is nested too deeply, holds itself, or says more than
`MOST_NODES` values by aliases of aliases ("billion laughs").
"""

from __future__ import annotations

from typing import Any

import yaml

MOST_NODES = 1_000_000
MOST_DEEP = 200
"""Levels of lists and mappings in one another. What composes them is recursive C, which a few thousand crash."""
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml where there is one: ten times as fast."""


def load_yaml(text: str) -> Any:
    """Return the value of a YAML text, as `yaml.safe_load` does. Raises yaml.YAMLError."""
    _check_depth(text)
    loader = _LOADER(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        if _size(root, {}) > MOST_NODES:
            raise yaml.YAMLError(f"it says more than {MOST_NODES:,} values by aliases of aliases: write them out")
        return loader.construct_document(root)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:  # as of a date that no calendar has
        raise yaml.YAMLError(f"a value cannot be read: {error}") from None
    finally:
        loader.dispose()


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):  # one after the other, without recursion
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEEP:
            raise yaml.YAMLError("it is nested too deeply")


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return the number of values in a node, those of an alias as often as it stands there. Raises YAMLError where it
    holds itself."""
    if id(node) in sizes:
        if sizes[id(node)] == 0:
            raise yaml.YAMLError("a value holds itself by an alias")
        return sizes[id(node)]
    sizes[id(node)] = 0
    inner = node.value if isinstance(node, yaml.CollectionNode) else []
    parts = [part for pair in inner for part in pair] if isinstance(node, yaml.MappingNode) else inner
    sizes[id(node)] = 1 + sum(_size(part, sizes) for part in parts)
    return sizes[id(node)]
