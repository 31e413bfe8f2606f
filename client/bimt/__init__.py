"""The client of a BIMT service: `from bimt import Client`. torch, networkx and pandas are imported only when needed."""

from typing import Any

from .datasets import Dataset
from .deprecated import lookup
from .errors import (
    BimtError,
    Conflict,
    InsufficientStorage,
    InvalidFields,
    InvalidSignature,
    JobEnded,
    NotAllowed,
    NotFound,
    NotInstalled,
    NotLoggedIn,
    OperationFailed,
    QuotaExceeded,
    Refused,
    ServiceFault,
    TooLarge,
    TooMany,
    Unreachable,
    UploadBroken,
    WeightsError,
    WrongField,
)
from .events import JobEvent
from .http import RetryPolicy
from .jobs import Job, Plan, Recipe
from .models import Model, Version
from .runs import Figure, Module, PartName, Run
from .service import Client
from .uploaded_networks import UploadedNetwork
from .webhooks import Webhook

__all__ = [
    "BimtError",
    "Client",
    "Conflict",
    "Dataset",
    "Figure",
    "InsufficientStorage",
    "InvalidFields",
    "InvalidSignature",
    "Job",
    "JobEnded",
    "JobEvent",
    "Model",
    "Module",
    "NotAllowed",
    "NotFound",
    "NotInstalled",
    "NotLoggedIn",
    "OperationFailed",
    "PartName",
    "Plan",
    "QuotaExceeded",
    "Recipe",
    "Refused",
    "RetryPolicy",
    "Run",
    "ServiceFault",
    "TooLarge",
    "TooMany",
    "Unreachable",
    "UploadBroken",
    "UploadedNetwork",
    "Version",
    "Webhook",
    "WeightsError",
    "WrongField",
]


def __getattr__(name: str) -> Any:
    return lookup(name)
