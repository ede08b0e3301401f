"""What the graphs of a landscape's batches take, known from one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

# Bytes a strategy holds or works with, in units of what one forward pass saves (measured on a transformer, a ResNet and
# an MLP): a graph of the gradient (2.5 to 3.6), a linearised gradient, one product or vmapped tangent (1.3 to 3.8), and
# recording a product, for as long as that takes (10 to 18.5).
GRAPH, LINEARISED, TANGENT, RECORDING = 4, 16, 4, 20


@dataclass(frozen=True)
class GraphMemory:
    """Bytes of the graphs that products are taken of.

    Attributes:
        saved: what a forward pass of the first batch saves for its backward pass, bytes.
        vector: a parameter vector, bytes: each graph holds the gradient that it is of.
        batches: number of batches of this process.
        repeatable: whether the data is held in memory, so that graphs of it can be kept.
    """

    saved: int
    vector: int
    batches: int
    repeatable: bool

    def graph(self, *, linearised: bool = False) -> int:
        """Bytes of one batch's graph.

        Args:
            linearised: whether it is a linearised program.

        Returns:
            Bytes.

        >>> GraphMemory(saved=100, vector=40, batches=3, repeatable=True).graph()
        440
        """
        return (LINEARISED if linearised else GRAPH) * self.saved + self.vector

    def all(self, *, linearised: bool = False) -> int:
        """Bytes of all batches' graphs."""
        return self.batches * self.graph(linearised=linearised)

    def kept(self, memory: int, *, linearised: bool = False) -> bool:
        """Whether all graphs are kept from one product to the next.

        Args:
            memory: bytes that they may take.
            linearised: whether they hold linearised programs.

        Returns:
            Whether they fit, and the data allows it.
        """
        return self.repeatable and self.all(linearised=linearised) <= memory

    def recordable(self, memory: int) -> bool:
        """Whether graphs are kept, and there is room to record a product while they are."""
        return self.kept(memory) and self.all() + (RECORDING - GRAPH) * self.saved <= memory

    def chunk(self, memory: int) -> int:
        """How many vectors a vmapped product takes at once in half of the memory, at least 1."""
        return max(1, int(memory / 2 / max(TANGENT * self.saved + self.vector, 1)))

    def reason(self, memory: int, *, linearised: bool = False) -> str:
        """Why graphs are not kept.

        Args:
            memory: bytes that they may take.
            linearised: whether they hold linearised programs.

        Returns:
            A sentence without its end.
        """
        if not self.repeatable:
            return "the data is not held in memory"
        need = self.all(linearised=linearised)
        return f"graphs of {need / 1e9:.2g} GB pass the memory of {memory / 1e9:.2g} GB"
