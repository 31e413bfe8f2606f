"""The client of a BIMT service: `from bimt import Client`. Light: torch, networkx and pandas only where asked for."""

from .datasets import Dataset
from .errors import (
    AnswerFailed,
    BimtError,
    Conflict,
    InvalidFields,
    InvalidSignature,
    JobEnded,
    NotAllowed,
    NotFound,
    NotInstalled,
    NotLoggedIn,
    Refused,
    ServiceFault,
    TooLarge,
    TooMany,
    Unreachable,
    UploadBroken,
    WrongField,
)
from .following import Moment
from .jobs import Job
from .models import Model, Version
from .patience import Patience
from .recipes import Recipe
from .runs import Figure, Module, Run
from .service import Client
from .webhooks import Webhook

__all__ = [
    "AnswerFailed",
    "BimtError",
    "Client",
    "Conflict",
    "Dataset",
    "Figure",
    "InvalidFields",
    "InvalidSignature",
    "Job",
    "JobEnded",
    "Model",
    "Module",
    "Moment",
    "NotAllowed",
    "NotFound",
    "NotInstalled",
    "NotLoggedIn",
    "Patience",
    "Recipe",
    "Refused",
    "Run",
    "ServiceFault",
    "TooLarge",
    "TooMany",
    "Unreachable",
    "UploadBroken",
    "Version",
    "Webhook",
    "WrongField",
]
