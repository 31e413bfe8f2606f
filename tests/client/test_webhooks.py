"""Webhooks from end to end: a service sends the end of a job to a receiver, and the client verifies the message."""

from __future__ import annotations

import json

import pytest

from bimt import InvalidFields, InvalidSignature
from bimt.webhooks import verify
from tests.client.conftest import TINY
from tests.end_to_end.test_supervisor import wait_for
from tests.worker.scheduler.receivers import receiving


def test_the_end_of_a_job_is_sent_and_its_signature_verified(client):
    with receiving(statuses=[503]) as receiver:
        hook = client.webhooks.create(receiver.url, ["job.succeeded", "job.cancelled"])
        assert hook.id in {each.id for each in client.webhooks.list()}
        assert client.webhooks.get(hook.id).secret is None
        hook.ping()
        wait_for(lambda: len(receiver.heard) == 1, "the ping is there")
        wait_for(lambda: next(hook.deliveries())["answer"], "the answer is written down")
        [ping] = hook.deliveries()
        assert (ping["state"], ping["answer"]) == ("waiting", "503 Service Unavailable")
        hook.redeliver(ping["id"])  # now, and not in half a minute
        wait_for(lambda: next(hook.deliveries())["state"] == "delivered", "the second try has arrived")
        job = client.jobs.submit(spec=TINY, name="ended").wait(timeout=120)
        wait_for(lambda: len(receiver.heard) == 3, "the end of the job was sent")
        _, headers, body = receiver.heard[-1]
        said = verify(hook.secret, headers, body)
        assert (said["type"], said["data"]) == (
            "job.succeeded",
            {"job_id": job.id, "name": "ended", "state": "succeeded", "reason": None},
        )
        hook.delete()
        assert hook.id not in {each.id for each in client.webhooks.list()}

        for forged in (body + b" ", body.replace(b"ended", b"endet")):
            with pytest.raises(InvalidSignature, match="not signed"):
                verify(hook.secret, headers, forged)
        with pytest.raises(InvalidSignature, match="is missing"):
            verify(hook.secret, {}, body)
        with pytest.raises(InvalidSignature, match="cannot be read"):
            verify("whsec_?", headers, body)
        late = int({name.lower(): value for name, value in headers.items()}["webhook-timestamp"]) + 400.0
        with pytest.raises(InvalidSignature, match="s old"):
            verify(hook.secret, headers, body, now=late)
        assert verify(hook.secret, headers, body, now=late, oldest_seconds=500) == json.loads(body)


def test_an_address_that_would_never_be_called_is_refused(client):
    with pytest.raises(InvalidFields, match="no public address"):
        client.webhooks.create("https://169.254.169.254/latest/meta-data")
