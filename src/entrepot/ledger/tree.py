"""Proofs from stored hashes: the leaves' hashes in one file, those of full subtrees of 256 and 65,536 in two more.

All of it is derived and can be made again from the entries. Subtrees are those of C2SP tlog-tiles at height 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from entrepot.ledger.verify import EMPTY_ROOT, Tree, Unproved, node_hash

HASH = 32
LEVELS = 3
_HEIGHT = 8
_WIDTH = 1 << _HEIGHT

# (level, first, count) → that many hashes; level 0 is the leaves'.
Read = Callable[[int, int, int], bytes]


class Known:
    """Stored hashes of a tree, those of its subtrees having been found to lead to its root.

    INVARIANT: a subtree's root is taken from here only for leaves that are as they are stored, so an entry that was
    hashed anew and is not as it was does not get the root that it had. `verify` takes nothing from here.
    """

    def __init__(self, leaves: bytes, nodes: bytes) -> None:
        """Of the leaves, and of the full subtrees over 256 of them."""
        self._leaves = leaves
        self._nodes = nodes

    def leaves(self, first: int, count: int) -> list[bytes]:
        return [self._leaves[at * HASH : (at + 1) * HASH] for at in range(first, first + count)]

    def node(self, number: int, leaves: Sequence[bytes]) -> bytes | None:
        """The root over full subtree `number`, if these are its leaves."""
        size = _WIDTH * HASH
        if self._leaves[number * size : (number + 1) * size] != b"".join(leaves):
            return None
        return self._nodes[number * HASH : (number + 1) * HASH] or None


def known(read: Read, size: int, root: bytes) -> Known | None:
    """What is stored of the tree of `size` leaves, if it leads to the root that was signed."""
    full = size >> _HEIGHT
    leaves, nodes = read(0, 0, size), read(1, 0, full)
    if len(leaves) < size * HASH or len(nodes) < full * HASH:
        return None
    above = Tree()
    above.extend([nodes[at : at + HASH] for at in range(0, len(nodes), HASH)])
    rest = Tree()
    rest.extend([leaves[at : at + HASH] for at in range(full * _WIDTH * HASH, len(leaves), HASH)])
    whole = Tree()
    whole.edge = [*above.edge, *rest.edge]
    return Known(leaves, nodes) if whole.root() == root else None


class Growth:
    """The growing edge of a tree, and the hashes of the subtrees that its growth completes."""

    def __init__(self, known: Known | None = None) -> None:
        self.size = 0
        self.known = known
        # Leaves that are not in a full subtree yet: 256 at once are quicker than one after the other.
        self._leaves: list[bytes] = []
        # Of each higher level's hashes those that are not in a full subtree of the next level yet.
        self._edges = [Tree() for _ in range(1, LEVELS)]

    def extend(self, hashes: Sequence[bytes]) -> list[bytes]:
        """Add leaves; gives what is to be appended to the stored hashes of each level."""
        added: list[list[bytes]] = [[] for _ in range(1, LEVELS)]
        leaves, start = self._leaves, 0
        while start < len(hashes):
            part = hashes[start : start + _WIDTH - len(leaves)]
            leaves += part
            start += len(part)
            if len(leaves) == _WIDTH:
                number = (self.size + start) // _WIDTH - 1
                node = None if self.known is None else self.known.node(number, leaves)
                self._put(1, _root(leaves) if node is None else node, added)
                leaves.clear()
        self.size += len(hashes)
        return [b"".join(hashes), *map(b"".join, added)]

    def root(self) -> bytes:
        lowest, whole = Tree(), Tree()
        lowest.extend(self._leaves)
        whole.edge = [node for tree in (*reversed(self._edges), lowest) for node in tree.edge]
        return whole.root()

    def _put(self, level: int, node: bytes, added: list[list[bytes]]) -> None:
        """The root of a full subtree of the hashes of the level below."""
        added[level - 1].append(node)
        edge = self._edges[level - 1]
        edge.extend([node])
        if edge.size == _WIDTH and level + 1 < LEVELS:
            self._edges[level - 1] = Tree()
            self._put(level + 1, edge.root(), added)


class Proofs:
    """The subtrees of a tree of at least `size` leaves, through `read`."""

    def __init__(self, read: Read, size: int) -> None:
        self.read = read
        self._size = size

    def root(self, start: int, end: int) -> bytes:
        """RFC 6962 §2.1: the hash over the leaves `[start, end)`, `start` a multiple of the enclosing power of two."""
        count = end - start
        if count <= 0:
            return EMPTY_ROOT
        for level in reversed(range(LEVELS)):
            width = 1 << (_HEIGHT * level)
            if count >= width and start % width == 0 and count % width == 0 and count // width <= _WIDTH:
                raw = self.read(level, start // width, count // width)
                if len(raw) < count // width * HASH:
                    raise LookupError("stored hashes are missing")
                return _root([raw[at : at + HASH] for at in range(0, len(raw), HASH)])
        left = split(count)
        return node_hash(self.root(start, start + left), self.root(start + left, end))

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """RFC 6962 §2.1.1."""
        start, end = 0, self._size if size is None else size
        path: list[bytes] = []
        while end - start > 1:
            middle = start + split(end - start)
            if index < middle:
                path.append(self.root(middle, end))
                end = middle
            else:
                path.append(self.root(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, old: int) -> list[bytes]:
        """RFC 6962 §2.1.2, from the tree of the first `old` leaves, `0 < old`."""
        start, end, whole = 0, self._size, True
        path: list[bytes] = []
        while old != end:
            middle = start + split(end - start)
            if old <= middle:
                path.append(self.root(middle, end))
                end = middle
            else:
                path.append(self.root(start, middle))
                start, whole = middle, False
        if not whole:
            path.append(self.root(start, end))
        return path[::-1]


def check_consistency(old: tuple[int, bytes], new: tuple[int, bytes], path: Sequence[bytes]) -> None:
    """RFC 9162 §2.1.4.2. Raises Unproved unless the tree `new` (size, root) only adds to the tree `old`."""
    (first, first_root), (second, second_root) = old, new
    if not 0 < first <= second:
        raise Unproved(f"a tree of {second} entries cannot continue one of {first}")
    if first == second:
        if path or first_root != second_root:
            raise Unproved("two trees of one size have different roots")
        return
    steps = list(path)
    if first & (first - 1) == 0:
        steps.insert(0, first_root)
    if not steps:
        raise Unproved("the consistency proof is empty")
    number, last = first - 1, second - 1
    while number & 1:
        number, last = number >> 1, last >> 1
    left = right = steps[0]
    for step in steps[1:]:
        if last == 0:
            raise Unproved("the consistency proof is too long")
        if number & 1 or number == last:
            left, right = node_hash(step, left), node_hash(step, right)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            right = node_hash(right, step)
        number, last = number >> 1, last >> 1
    if last or left != first_root or right != second_root:
        raise Unproved("the consistency proof does not lead from one root to the other")


def split(count: int) -> int:
    """The largest power of two below `count`, which is at least 2."""
    return 1 << ((count - 1).bit_length() - 1)


def _root(hashes: Sequence[bytes]) -> bytes:
    tree = Tree()
    tree.extend(hashes)
    return tree.root()
