"""What a constraint on a text is: at every step it says which tokens may come.

Knows token ids. Knows nothing of grammars or tokenizers: `grammar.py` makes constraints of those.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]


class Constraint(ABC):
    """The state of one text; two texts never share one."""

    @abstractmethod
    def allowed(self) -> Bools:
        """Which tokens may come next, (vocabulary,). Raises BadInput where it cannot tell any more."""

    @abstractmethod
    def accept(self, token: int) -> None:
        """This token was written. Raises BadInput for one that was not allowed."""

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether nothing but the end can follow."""

    @abstractmethod
    def copy(self) -> Constraint:
        """The same state for another text."""
