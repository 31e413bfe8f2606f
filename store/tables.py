"""Every table of the service in one place; the rows themselves are described by noun next door."""

from __future__ import annotations

from store.columns import Base
from store.data_tables import Dataset, File, Upload, UploadPart
from store.job_tables import Attempt, HistoryChunk, Job, JobBody, JobTag, LogChunk, Run, Snapshot, Worker
from store.model_tables import Annotation, Model, ModelAlias, ModelVersion, Share
from store.people_tables import AuditEntry, IdempotencyKey, Member, Team, Token, Webhook, WebhookDelivery
from store.result_tables import Clustering, Effect, Figure, Graph, Module, RunBody, RunFile

__all__ = [
    "Annotation",
    "Attempt",
    "AuditEntry",
    "Base",
    "Clustering",
    "Dataset",
    "Effect",
    "Figure",
    "File",
    "Graph",
    "HistoryChunk",
    "IdempotencyKey",
    "Job",
    "JobBody",
    "JobTag",
    "LogChunk",
    "Member",
    "Model",
    "ModelAlias",
    "ModelVersion",
    "Module",
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
