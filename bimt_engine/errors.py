"""What can go wrong in the engine, said so that a person can act on it."""


class BimtError(Exception):
    """A sentence for people: what is wrong, which thing it is, what to do."""


class SpecError(BimtError):
    """What was asked for cannot be built."""


class DataError(BimtError):
    """The data cannot be used. `where` names the row and column, when there is one.

    where   for instance {"row": 17, "column": "age"}; rows count from 1, the header not included.
    """

    def __init__(self, sentence: str, *, where: dict[str, object] | None = None) -> None:
        super().__init__(sentence)
        self.where = where or {}


class FormulaError(BimtError):
    """A formula says something that formulas may not say."""


class TrainingDiverged(BimtError):
    """The loss became infinite or not a number."""


class CheckpointError(BimtError):
    """A checkpoint does not belong to this spec, or its bytes are damaged."""
