"""The engine's errors. Their text is for users: what is wrong, with which input, what to do."""


class BimtError(Exception):
    """The base of all errors whose text may be shown to a user."""


class SpecError(BimtError):
    """The spec asks for something that cannot be built."""


class DataError(BimtError):
    """The data cannot be used. `where` names the row and column, when there is one.

    where   for instance {"row": 17, "column": "age"}; rows count from 1, the header not included.
    """

    def __init__(self, sentence: str, *, where: dict[str, object] | None = None) -> None:
        super().__init__(sentence)
        self.where = where or {}


class FormulaError(BimtError):
    """A formula that cannot be read."""


class TrainingDiverged(BimtError):
    """The loss became infinite or not a number."""


class CheckpointError(BimtError):
    """A checkpoint does not belong to this spec, or its bytes are damaged."""
