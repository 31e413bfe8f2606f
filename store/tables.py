"""Every table of the service; each is declared with its resource. Importing this makes `Base.metadata` complete."""

from __future__ import annotations

from store.columns import Base
from store.datasets import Dataset, Upload, UploadPart
from store.files import File
from store.jobs.tables import Attempt, IdempotencyKey, Job, JobBody, JobTag, Worker
from store.models import Annotation, Model, ModelAlias, ModelVersion, Share
from store.networks import Network
from store.runs.tables import (
    Effect,
    Figure,
    Graph,
    HistoryChunk,
    InteriorGroup,
    LogChunk,
    Module,
    PartInput,
    Run,
    RunBody,
    RunFile,
    Snapshot,
)
from store.teams import AuditEntry, Member, Team, Token
from store.webhooks import Webhook, WebhookDelivery

__all__ = [
    "Annotation",
    "Attempt",
    "AuditEntry",
    "Base",
    "Dataset",
    "Effect",
    "Figure",
    "File",
    "Graph",
    "HistoryChunk",
    "IdempotencyKey",
    "InteriorGroup",
    "Job",
    "JobBody",
    "JobTag",
    "LogChunk",
    "Member",
    "Model",
    "ModelAlias",
    "ModelVersion",
    "Module",
    "Network",
    "PartInput",
    "Run",
    "RunBody",
    "RunFile",
    "Share",
    "Snapshot",
    "Team",
    "Token",
    "Upload",
    "UploadPart",
    "Webhook",
    "WebhookDelivery",
    "Worker",
]
